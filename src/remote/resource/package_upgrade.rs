//! Newer versions of packages that are installed.

use super::{
    apt_get,
    dpkg::Packages,
    offers::{self, Offer, Way, skips_a_minor},
};
use crate::remote::{
    command::Invocation,
    host::{Context, Finding, Host, Manage, failure_with},
    protocol::{Failure, Version},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{path::Path, time::Duration};

/// `package_upgrade`: packages that are installed are brought to the newest version that the archives offer, or to
/// the one that is named. What isn't installed stays so, nothing goes back to an older version, and services that
/// packages would restart are left alone. Registers `versions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageUpgrade {
    #[serde(default, alias = "pkg", alias = "package")]
    pub name: Vec<String>,
    /// All packages of the host but these, instead of those that are named.
    #[serde(default)]
    pub all_but: Option<Vec<String>>,
    /// The version to go to, as Debian writes it or by its upstream part (`15.14`); the newest when absent.
    #[serde(default)]
    pub to: Option<String>,
    /// Refuse to leave out a minor version.
    #[serde(default)]
    pub by_minors: bool,
    /// Package lists older than this many seconds are refreshed, to look too.
    #[serde(default = "ten_minutes_secs")]
    pub cache_valid_time: u64,
    /// How long to wait for another package manager to finish, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub lock_timeout: u64,
}

fn ten_minutes_secs() -> u64 {
    600
}

const REBOOT_REQUIRED: &str = "/run/reboot-required";

impl PackageUpgrade {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (self.name.is_empty(), &self.all_but) {
            (false, None) => Ok(()),
            (true, Some(_)) if self.to.is_none() => Ok(()),
            (true, Some(_)) => Err("`to`: many packages have no version in common".to_owned()),
            _ => Err("expected either `name` or `all_but`".to_owned()),
        }
    }

    /// What is installed and where it goes.
    async fn versions(&self, host: &Host) -> Result<Vec<Version>, Failure> {
        let packages = Packages::read(host)?;
        let installed = self.name.iter().filter_map(|name| Some((name.as_str(), packages.version(name)?)));
        let installed: Vec<(&str, &str)> = installed.collect();
        let names: Vec<&str> = installed.iter().map(|(name, _)| *name).collect();
        let offers = offers::ask(host, &names).await?;
        let mut versions = Vec::new();
        let mut found = self.to.is_none() || installed.is_empty();
        for (name, installed) in &installed {
            let unknown = Offer::default();
            let way = offers.get(*name).unwrap_or(&unknown).way(installed, self.to.as_deref());
            found |= way != Way::NotOffered;
            let to = match way {
                Way::Stay | Way::NotOffered => None,
                Way::To(version) if self.by_minors && skips_a_minor(installed, &version) => {
                    return Err(failure_with(
                        format!("{name} would go from {installed} to {version}, past a minor version"),
                        "go by one minor version at a time: name the next one with `--to`",
                    ));
                }
                Way::To(version) => Some(version),
                Way::Back(version) => {
                    return Err(failure_with(
                        format!("{name} {installed} is newer than {version}"),
                        "an upgrade never goes back; `pgfleet rollback` brings back what was there before",
                    ));
                }
            };
            versions.push(Version { name: (*name).to_owned(), installed: Some((*installed).to_owned()), to });
        }
        if found {
            return Ok(versions);
        }
        let wanted = self.to.as_deref().unwrap_or_default();
        let offered = offers.get(names[0]).map(|offer| offer.offered().collect::<Vec<_>>().join(", "));
        let offered = offered.filter(|offered| !offered.is_empty()).unwrap_or_else(|| "none".to_owned());
        Err(failure_with(
            format!("no archive of this host has {} {wanted}", names[0]),
            format!("name one that they have ({offered}), or add the archive that has it"),
        ))
    }

    /// What an upgrade of the whole host would replace, as apt simulates it.
    async fn others(&self, host: &Host, but: &[String]) -> Result<Vec<Version>, Failure> {
        let simulate = upgrade_all().args(["--simulate", "-o", "APT::Get::Show-User-Simulation-Note=false"]);
        let output = simulate.success(host, "apt cannot tell what it would upgrade").await?;
        let mut versions = simulated(&output.stdout);
        versions.retain(|version| !but.contains(&version.name));
        Ok(versions)
    }

    async fn look(&self, host: &Host) -> Result<Vec<Version>, Failure> {
        match &self.all_but {
            Some(but) => self.others(host, but).await,
            None => self.versions(host).await,
        }
    }

    async fn change(&self, context: &Context<'_>) -> Result<(), Failure> {
        let host = context.host;
        if Packages::read(host)?.need_repair() {
            apt_get::repair(context).await?;
        }
        let versions = self.look(host).await?;
        let exact =
            versions.iter().filter_map(|version| Some(format!("{}={}", version.name, version.to.as_ref()?)));
        let exact: Vec<String> = exact.collect();
        if exact.is_empty() {
            return Ok(());
        }
        let command = match self.all_but {
            Some(_) => upgrade_all(),
            None => apt_get::apt_get()
                .args(["--allow-change-held-packages", "--only-upgrade", "install", "--"])
                .args(exact.iter().map(String::as_str)),
        };
        context.waiting(format!("apt-get: {}", exact.join(" ")));
        apt_get::run(host, &command, &format!("could not upgrade {}", exact.join(" "))).await.map(drop)
    }
}

/// The upgrade of all packages that are not held; what they need besides comes too.
fn upgrade_all() -> Invocation {
    apt_get::apt_get().args(["--with-new-pkgs", "upgrade"])
}

/// The lines `Inst NAME [OLD] (NEW ARCHIVE ...)` of a simulation.
fn simulated(text: &str) -> Vec<Version> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("Inst "));
    let one = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let installed = rest.strip_prefix('[').and_then(|rest| rest.split(']').next()).map(str::to_owned);
        let to = rest.split('(').nth(1)?.split(' ').next()?.to_owned();
        Some(Version { name: name.to_owned(), installed, to: Some(to) })
    };
    lines.filter_map(one).collect()
}

impl Manage for PackageUpgrade {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        // What somebody is about to replace cannot be looked at: a run that died may have left its apt at work.
        let patience = Duration::from_secs(self.lock_timeout);
        apt_get::wait_for_lock(context, apt_get::DPKG_LOCK, patience).await?;
        let limit = Duration::from_secs(self.cache_valid_time);
        // What is on offer cannot be told from old lists.
        if apt_get::is_update_owed(host) || apt_get::lists_age(host).is_none_or(|age| age > limit) {
            apt_get::update(context).await?;
        }
        let versions = self.look(host).await?;
        let mut finding = Finding::unchanged().with("versions", json!(versions));
        for version in &versions {
            if let Some(to) = &version.to {
                let from = version.installed.as_deref().unwrap_or("absent");
                finding.differs(format!("{}: {from} -> {to}", version.name));
            }
        }
        if Packages::read(host)?.need_repair() {
            finding.differs("dpkg: interrupted -> complete");
        }
        if self.all_but.is_some() && host.path(Path::new(REBOOT_REQUIRED)).exists() {
            finding
                .warnings
                .push("wants a reboot, since it runs what was replaced (/run/reboot-required)".to_owned());
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        apt_get::wait_for_lock(context, apt_get::DPKG_LOCK, Duration::from_secs(self.lock_timeout)).await?;
        apt_get::hold_services(host)?;
        let changed = self.change(context).await;
        // The policy goes away even if the upgrade failed; its failure is the one to report.
        let released = apt_get::release_services(host);
        changed.and(released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_do_is_read() {
        let text = "Reading package lists...\n\
             Inst libssl3 [3.0.15-1~deb12u1] (3.0.17-1~deb12u2 Debian:12/stable, Debian-Security:12 [amd64])\n\
             Inst linux-image-6.1.0-40 (6.1.153-1 Debian:12/stable [amd64])\n\
             Conf libssl3 (3.0.17-1~deb12u2 Debian:12/stable [amd64])\n";
        let told = simulated(text).into_iter().map(|version| (version.name, version.installed, version.to));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("libssl3".to_owned(), text("3.0.15-1~deb12u1"), text("3.0.17-1~deb12u2")),
                ("linux-image-6.1.0-40".to_owned(), None, text("6.1.153-1")),
            ]
        );
    }
}
