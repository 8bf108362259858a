//! Packages of Debian and its descendants.

use serde::{Deserialize, Serialize};

/// `apt` (alias `package`): packages are installed, at a version where one is named, or absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apt {
    /// Names, each with `=version` where an exact one is wanted.
    #[serde(alias = "pkg", alias = "package")]
    pub name: Vec<String>,
    #[serde(default)]
    pub state: PackageState,
    /// Refresh the package lists first, even if nothing must be installed.
    #[serde(default)]
    pub update_cache: bool,
    /// Lists younger than this many seconds are fresh enough.
    #[serde(default = "day_secs")]
    pub cache_valid_time: u64,
    /// The release to take packages from, as `apt-get -t` does.
    #[serde(default)]
    pub default_release: Option<String>,
    /// Services that packages would start by themselves stay down until a task starts them.
    #[serde(default)]
    pub hold_services: bool,
    #[serde(default)]
    pub install_recommends: bool,
    #[serde(default)]
    pub allow_downgrade: bool,
    /// With `state: absent`, configuration files go too.
    #[serde(default)]
    pub purge: bool,
    /// How long to wait for another package manager to finish, in seconds.
    #[serde(default = "five_minutes_secs")]
    pub lock_timeout: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageState {
    #[default]
    #[serde(alias = "installed")]
    Present,
    /// The newest version that the lists offer.
    Latest,
    #[serde(alias = "removed")]
    Absent,
}

fn day_secs() -> u64 {
    86_400
}

fn five_minutes_secs() -> u64 {
    300
}

impl Apt {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("`name`: expected at least one package".to_owned());
        }
        match self.name.iter().find(|name| !is_package(name)) {
            Some(name) => {
                Err(format!("`name`: `{name}` is no package name (expected `name` or `name=version`)"))
            }
            None => Ok(()),
        }
    }
}

/// Whether this is a name that apt would take as a package and nothing else: no option, no pattern.
fn is_package(name: &str) -> bool {
    let (name, version) = name.split_once('=').unwrap_or((name, "0"));
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.:".contains(letter))
        && !version.is_empty()
        && version.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.:~*".contains(letter))
}
