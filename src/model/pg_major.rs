//! PostgreSQL's major versions.

use std::fmt;

/// A major version that pgfleet can run: 13 to 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PgMajor(u16);

/// A major version outside of what pgfleet supports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL {0} is not supported; expected a major version from 13 to 18")]
pub struct UnsupportedMajor(u16);

impl PgMajor {
    pub const OLDEST: PgMajor = PgMajor(13);
    pub const NEWEST: PgMajor = PgMajor(18);

    pub fn number(self) -> u16 {
        self.0
    }

    /// The major version within `server_version_num`, for example 17 of 170002.
    pub fn of_version_num(version_num: u32) -> Result<Self, UnsupportedMajor> {
        u16::try_from(version_num / 10_000).unwrap_or(u16::MAX).try_into()
    }
}

impl TryFrom<u16> for PgMajor {
    type Error = UnsupportedMajor;

    fn try_from(number: u16) -> Result<Self, UnsupportedMajor> {
        if (Self::OLDEST.0..=Self::NEWEST.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(UnsupportedMajor(number))
        }
    }
}

impl From<PgMajor> for u16 {
    fn from(major: PgMajor) -> u16 {
        major.0
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
