//! The name of a sandbox or of a snapshot.

use std::{fmt, str::FromStr};

const RULE: &str = "1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit";

/// A name that can stand in a path, in a namespace and in an nftables table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A name that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid name for a sandbox: {RULE}")]
pub struct InvalidName(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Name, InvalidName> {
        let valid = (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if valid { Ok(Name(name)) } else { Err(InvalidName(name)) }
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Name, InvalidName> {
        name.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_would_leave_its_folder() {
        assert!("demo-1.a".parse::<Name>().is_ok());
        for wrong in ["", "..", "../etc", "a/b", "-a", "a b", &"x".repeat(64)] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }
}
