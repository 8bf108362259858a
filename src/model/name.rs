//! Names of hosts, cluster members and clusters.

use std::{fmt, str::FromStr};

/// A name that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid {kind}: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&name) { Ok(Self(name)) } else { Err(InvalidName { kind: $kind, name, rule: $rule }) }
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                name.to_owned().try_into()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A host as the inventory names it; it becomes the host's `hostname`.
    HostName,
    "host name",
    "1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit",
    |name| (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
);

name_type!(
    /// A member of a PostgreSQL cluster, as its key under `members/` in the DCS names it.
    MemberName,
    "member name",
    "1 to 63 printable ASCII characters without `/` and `,`",
    |name| (1..=63).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic() && !"/,".contains(c))
);

name_type!(
    /// A PostgreSQL cluster, as its folder in the DCS names it (Patroni's `scope`).
    Scope,
    "cluster name",
    "1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit",
    |name| (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_rule_of_each_kind() {
        assert!("pg-1.example".parse::<HostName>().is_ok());
        assert!("-pg1".parse::<HostName>().is_err());
        assert!("a/b".parse::<MemberName>().is_err());
        assert_eq!(
            "my cluster".parse::<Scope>().unwrap_err().to_string(),
            "`my cluster` is not a valid cluster name: 1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit"
        );
    }
}
