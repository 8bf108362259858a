//! A position in the write-ahead log.

use std::{fmt, str::FromStr};

/// Byte position in the write-ahead log, written by PostgreSQL as `16/B374D848` (`pg_lsn`).
/// In JSON it is the plain integer, as Patroni's documents have it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `other` up to `self`; zero when `other` is ahead.
    pub fn bytes_since(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not two hexadecimal numbers of at most 32 bits around a slash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a WAL position; expected two hexadecimal numbers like `16/B374D848`")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let half = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
            Some(Lsn(half(high)? << 32 | half(low)?))
        };
        parse().ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_it_writes(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse::<Lsn>(), Ok(Lsn(position)));
        }
    }

    #[test]
    fn refuses_what_is_not_a_position() {
        for text in ["", "/", "1", "1/", "G/0", "123456789/0", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
