//! Packages of Debian and its descendants.

use super::{apt_get, dpkg::Packages, glob};
use crate::remote::{
    command::Invocation,
    host::{Context, Finding, Host, Manage},
    protocol::{AWAITED, Failure, Mode},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `apt` (alias `package`): packages are installed, at a version where one is named, or absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apt {
    /// Names, each with `=version` where an exact one is wanted.
    #[serde(alias = "pkg", alias = "package")]
    pub name: Vec<String>,
    #[serde(default)]
    pub state: PackageState,
    /// Refresh the package lists before something is installed. Lists that are missing or old are
    /// refreshed anyway; when nothing must be installed they are left alone.
    #[serde(default)]
    pub update_cache: bool,
    /// Lists younger than this many seconds are fresh enough; a day when not given.
    #[serde(default)]
    pub cache_valid_time: Option<u64>,
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

const DAY: Duration = Duration::from_secs(86_400);

/// Whether a run that was killed holds services back, or cannot be known not to.
pub(super) fn is_interrupted(host: &Host) -> bool {
    apt_get::are_services_held(host).unwrap_or(true)
}

/// Takes away what a run that was killed left in the way of services. The apt that it had started goes on
/// without it: until that has ended, services are still to stay down.
pub(super) async fn recover(context: &Context<'_>) -> Result<(), Failure> {
    if apt_get::are_services_held(context.host)? {
        apt_get::wait_for_lock(context, apt_get::DPKG_LOCK, Duration::from_secs(600)).await?;
    }
    apt_get::release_services(context.host)
}

impl Apt {
    fn are_lists_stale(&self, host: &Host) -> bool {
        let Some(age) = apt_get::lists_age(host) else { return true };
        let valid = self.cache_valid_time.map(Duration::from_secs);
        apt_get::is_update_owed(host) || age > valid.unwrap_or(DAY) || self.update_cache && valid.is_none()
    }

    /// What differs for one package, for people. `offered` is the version that would be installed, where the
    /// lists at hand tell.
    async fn difference(
        &self,
        host: &Host,
        packages: &Packages,
        wanted: &str,
        offered: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        let (name, version) = split(wanted);
        let package = packages.get(name).filter(|_| packages.is_installed(name));
        let installed = package.map(|package| package.version.as_str());
        Ok(match (self.state, installed, version) {
            (PackageState::Absent, None, _) => {
                let leftovers = packages.get(name).is_some_and(|package| package.state == "config-files");
                (self.purge && leftovers).then(|| format!("{name}: configuration files -> absent"))
            }
            (PackageState::Absent, Some(installed), _) => Some(format!("{name}: {installed} -> absent")),
            (_, Some(installed), Some(version)) if glob(version, installed) => None,
            (_, Some(installed), Some(version)) => Some(format!("{name}: {installed} -> {version}")),
            (PackageState::Present, Some(_), None) => None,
            (PackageState::Latest, Some(installed), None) => {
                let candidate = apt_get::candidate(host, name, self.default_release.as_deref()).await?;
                candidate
                    .filter(|candidate| candidate != installed)
                    .map(|candidate| format!("{name}: {installed} -> {candidate}"))
            }
            (_, None, None) if packages.is_provided(name) => None,
            (_, None, version) => {
                Some(format!("{name}: absent -> {}", version.or(offered).unwrap_or("installed")))
            }
        })
    }

    fn command(&self) -> Invocation {
        let yes_no = |flag: bool| if flag { "true" } else { "false" };
        let command = apt_get::apt_get()
            .args(["-o", &format!("APT::Install-Recommends={}", yes_no(self.install_recommends))])
            .args(self.default_release.iter().flat_map(|release| ["-t", release]))
            .args(self.allow_downgrade.then_some("--allow-downgrades"));
        let command = match (self.state, self.purge) {
            (PackageState::Absent, true) => command.arg("purge"),
            (PackageState::Absent, false) => command.arg("remove"),
            _ => command.arg("install"),
        };
        command.arg("--").args(&self.name)
    }

    async fn change(&self, context: &Context<'_>) -> Result<(), Failure> {
        let host = context.host;
        if Packages::read(host)?.need_repair() {
            apt_get::repair(context).await?;
        }
        let installs = self.state != PackageState::Absent;
        let mut is_fresh = false;
        if installs && self.are_lists_stale(host) {
            apt_get::update(context).await?;
            is_fresh = true;
        }
        let verb = if installs { "install" } else { "remove" };
        let purpose = format!("could not {verb} {}", self.name.join(" "));
        context.waiting(format!("apt-get {verb} {}", self.name.join(" ")));
        match apt_get::run(host, &self.command(), &purpose).await {
            // The archive has moved on since the lists were fetched, or has the package since then.
            Err(_) if installs && !is_fresh => {
                apt_get::update(context).await?;
                context.waiting(format!("apt-get {verb} {}", self.name.join(" ")));
                apt_get::run(host, &self.command(), &purpose).await.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }
}

/// The package's name, and the version that it must have where one is given.
fn split(wanted: &str) -> (&str, Option<&str>) {
    match wanted.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (wanted, None),
    }
}

impl Manage for Apt {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        let packages = Packages::read(host)?;
        let mut finding = Finding::unchanged();
        if self.state == PackageState::Latest && self.are_lists_stale(host) {
            // What is newest can't be told from old lists; a plan goes by those at hand.
            match context.mode {
                Mode::Apply => apt_get::update(context).await?,
                Mode::Check => {
                    drop(finding.result.insert(AWAITED.to_owned(), "fresh lists of packages".into()))
                }
            }
        }
        let installs = self.state != PackageState::Absent;
        let lists_tell = context.mode == Mode::Check && installs && !self.are_lists_stale(host);
        for wanted in &self.name {
            let name = split(wanted).0;
            let mut offered = None;
            if lists_tell && !packages.is_installed(name) && !packages.is_provided(name) {
                offered = apt_get::candidate(host, name, self.default_release.as_deref()).await?;
                // A repository that is yet to be added may have it.
                if offered.is_none() && !context.anticipates_change() {
                    finding.warnings.push(format!("the package lists at hand don't know `{name}`"));
                }
            }
            if let Some(line) = self.difference(host, &packages, wanted, offered.as_deref()).await? {
                finding.differs(line);
            }
        }
        if installs && finding.changed {
            context.promise_anything();
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let patience = Duration::from_secs(self.lock_timeout);
        apt_get::wait_for_lock(context, apt_get::DPKG_LOCK, patience).await?;
        if !self.hold_services {
            return self.change(context).await;
        }
        apt_get::hold_services(host)?;
        let changed = self.change(context).await;
        // The policy goes away even if the installation failed; its failure is the one to report.
        let released = apt_get::release_services(host);
        changed.and(released)
    }
}
