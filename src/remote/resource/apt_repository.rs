//! Package archives and the keys that sign them.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `apt_repository`: an archive as a deb822 file, `/etc/apt/sources.list.d/NAME.sources`, with its key
/// in `/etc/apt/keyrings`. The lists are refreshed when something changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AptRepository {
    /// The file's name without its ending.
    #[serde(alias = "filename")]
    pub name: String,
    /// One line of `sources.list` (`deb [options] uri suite component...`) instead of `uris` and `suites`.
    #[serde(default)]
    pub repo: Option<String>,
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default)]
    pub uris: Vec<String>,
    #[serde(default)]
    pub suites: Vec<String>,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The armoured public key itself.
    #[serde(default)]
    pub key: Option<String>,
    /// Where to fetch the key; `key_sha256` says what it must be.
    #[serde(default)]
    pub key_url: Option<String>,
    #[serde(default)]
    pub key_sha256: Option<String>,
    /// A key file that is on the target already.
    #[serde(default)]
    pub signed_by: Option<String>,
    /// Further deb822 fields, such as `Check-Valid-Until: no`.
    #[serde(default)]
    pub options: IndexMap<String, String>,
    #[serde(default)]
    pub state: super::Presence,
    #[serde(default = "super::yes")]
    pub update_cache: bool,
}

impl AptRepository {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains(|letter: char| letter == '/' || letter.is_whitespace())
        {
            return Err("`name`: expected a file name without directory".to_owned());
        }
        if self.state == super::Presence::Absent {
            return Ok(());
        }
        match (&self.repo, self.uris.is_empty() || self.suites.is_empty()) {
            (None, true) => Err("expected `uris` and `suites`, or `repo`".to_owned()),
            (Some(_), false) => Err("expected either `repo` or `uris`, not both".to_owned()),
            _ if [self.key.is_some(), self.key_url.is_some(), self.signed_by.is_some()]
                .iter()
                .filter(|given| **given)
                .count()
                > 1 =>
            {
                Err("expected one of `key`, `key_url`, `signed_by`".to_owned())
            }
            _ if self.key_url.is_some() && self.key_sha256.is_none() => {
                Err("`key_sha256` is missing: a key that is fetched must be known beforehand".to_owned())
            }
            _ => Ok(()),
        }
    }
}
