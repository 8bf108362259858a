//! When a certificate is made anew. Pure.

use super::{Facts, Wanted};
use std::{collections::BTreeSet, fmt, net::IpAddr};

const DAY_SECS: i64 = 86_400;

/// Why a certificate does not serve any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is none, or it cannot be read.
    Missing,
    /// Another authority signed it.
    Authority,
    Subject,
    /// The names and addresses that its holder is reached by have changed.
    Names,
    /// Less than a third of the life that certificates are given is left.
    Ends {
        days_left: i64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Authority => f.write_str("another authority signed it"),
            Self::Subject => f.write_str("it is somebody else's"),
            Self::Names => f.write_str("the names or addresses have changed"),
            Self::Ends { days_left } => write!(f, "it ends in {days_left} days"),
        }
    }
}

/// Why what is `found` has to be replaced by what is `wanted`; `None`: it serves on.
pub fn reason(found: Option<&Facts>, wanted: &Wanted, authority: &Facts, now: i64) -> Option<Reason> {
    let Some(found) = found else { return Some(Reason::Missing) };
    let life = i64::from(wanted.days) * DAY_SECS;
    let left = found.not_after - now;
    if found.signed_by.is_none() || found.signed_by != authority.key {
        Some(Reason::Authority)
    } else if found.subject != wanted.subject {
        Some(Reason::Subject)
    } else if found.names != normal(&wanted.names) {
        Some(Reason::Names)
    } else if left * 3 < life && found.not_after < authority.not_after {
        // One that ends with its authority would end no later if it were made anew.
        Some(Reason::Ends { days_left: left / DAY_SECS })
    } else {
        None
    }
}

/// Addresses in the one spelling that certificates give back.
fn normal(names: &[String]) -> BTreeSet<String> {
    let spelled = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.clone(),
    };
    names.iter().map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn wanted() -> Wanted {
        let names = ["pg-1", "10.0.0.1", "fd00:0::1"].map(str::to_owned).to_vec();
        Wanted { subject: "pg-1 postgres".to_owned(), names, days: 90 }
    }

    fn found() -> Facts {
        Facts {
            subject: "pg-1 postgres".to_owned(),
            names: ["pg-1", "10.0.0.1", "fd00::1"].map(str::to_owned).into(),
            not_before: NOW - 10 * DAY_SECS,
            not_after: NOW + 80 * DAY_SECS,
            serial: "01".to_owned(),
            key: Some(vec![2]),
            signed_by: Some(vec![1]),
        }
    }

    fn authority() -> Facts {
        Facts {
            subject: "authority".to_owned(),
            names: BTreeSet::new(),
            not_after: NOW + 3_000 * DAY_SECS,
            key: Some(vec![1]),
            signed_by: None,
            ..found()
        }
    }

    #[test]
    fn what_serves_stays_and_what_does_not_is_made_anew() {
        let ending = |days: i64| Facts { not_after: NOW + days * DAY_SECS, ..found() };
        let cases = [
            ("as it is wanted", Some(found()), None),
            ("not there", None, Some(Reason::Missing)),
            (
                "of another authority",
                Some(Facts { signed_by: Some(vec![9]), ..found() }),
                Some(Reason::Authority),
            ),
            (
                "without a word of who signed it",
                Some(Facts { signed_by: None, ..found() }),
                Some(Reason::Authority),
            ),
            (
                "somebody else's",
                Some(Facts { subject: "pg-2 postgres".to_owned(), ..found() }),
                Some(Reason::Subject),
            ),
            (
                "an address less",
                Some(Facts { names: ["pg-1".to_owned()].into(), ..found() }),
                Some(Reason::Names),
            ),
            ("a third of its life left", Some(ending(30)), None),
            ("less than a third", Some(ending(29)), Some(Reason::Ends { days_left: 29 })),
            ("over", Some(ending(-1)), Some(Reason::Ends { days_left: -1 })),
            ("of a longer life than is given now", Some(ending(900)), None),
        ];
        for (what, found, expected) in cases {
            assert_eq!(reason(found.as_ref(), &wanted(), &authority(), NOW), expected, "{what}");
        }
    }

    #[test]
    fn one_that_ends_with_its_authority_is_not_made_again_and_again() {
        let authority = Facts { not_after: NOW + 5 * DAY_SECS, ..authority() };
        let found = Facts { not_after: authority.not_after, ..found() };
        assert_eq!(reason(Some(&found), &wanted(), &authority, NOW), None);
    }
}
