//! What of a component works, kept so that it can be brought back: programs, configurations, units, and the
//! versions of packages. The newest generation is what was last seen to work; what is there now may be on its way
//! to the next one.

use super::{
    apt_get,
    dpkg::Packages,
    generations::{Generation, Generations},
    offers,
};
use crate::remote::{
    host::{Context, Finding, Host, Manage, failure, failure_with},
    protocol::{Failure, Version},
    systemd::systemctl,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// `generation`: what is there is the newest generation of a component, by keeping it or by bringing it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptGeneration {
    /// The component.
    pub name: String,
    #[serde(default)]
    pub state: GenerationState,
    /// Files that belong to it; one that isn't there is left out.
    #[serde(default)]
    pub files: Vec<String>,
    /// Packages that belong to it; one that isn't installed is left out.
    #[serde(default)]
    pub packages: Vec<String>,
    /// How many generations are kept.
    #[serde(default = "three")]
    pub keep: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationState {
    /// What is there is kept as the newest one.
    #[default]
    Kept,
    /// The same, and all earlier ones are forgotten.
    Only,
    /// The newest one is brought back, whatever is there.
    Restored,
    /// The one before the newest is brought back; the newest, where what is there is not that one.
    Previous,
}

fn three() -> usize {
    3
}

impl KeptGeneration {
    fn generations(&self, host: &Host) -> Generations {
        Generations::of(host, &self.name)
    }

    fn present(&self, host: &Host) -> Result<Generation, Failure> {
        Generation::of_present(host, &self.files, &self.packages)
    }

    /// What differs from a generation, for people.
    fn differences(host: &Host, kept: &Generation) -> Result<Vec<String>, Failure> {
        let packages = Packages::read(host)?;
        let mut lines = kept.changed_files(host)?;
        lines.extend(kept.packages.iter().filter_map(|(name, version)| {
            let installed = packages.version(name).filter(|installed| installed != version)?;
            Some(format!("{name}: {installed} -> {version}"))
        }));
        Ok(lines)
    }

    /// The generation to bring back; none where none is earlier.
    fn wanted(&self, host: &Host) -> Result<Option<Generation>, Failure> {
        let mut newest_first = self.generations(host).all()?.into_iter().rev();
        let Some(newest) = newest_first.next() else { return Ok(None) };
        let is_there = Self::differences(host, &newest)?.is_empty();
        match self.state {
            GenerationState::Previous if is_there => Ok(newest_first.next()),
            _ => Ok(Some(newest)),
        }
    }

    /// What bringing it back would change.
    fn look_back(&self, host: &Host) -> Result<Finding, Failure> {
        let mut finding = Finding::unchanged();
        let present = self.present(host)?.versions(host)?;
        let Some(wanted) = self.wanted(host)? else {
            finding.warnings.push(format!("there is no earlier generation of {}", self.name));
            return Ok(finding.with("versions", json!(present)));
        };
        Self::differences(host, &wanted)?.iter().for_each(|line| finding.differs(line));
        let mut to = wanted.versions(host)?;
        to.retain(|version| present.iter().any(|one| one.name == version.name));
        let versions = present.into_iter().map(|one| {
            let kept = to.iter().find(|version| version.name == one.name);
            let to =
                kept.and_then(|kept| kept.installed.clone()).filter(|to| Some(to) != one.installed.as_ref());
            Version { to, ..one }
        });
        let versions: Vec<Version> = versions.collect();
        Ok(finding.with("versions", json!(versions)))
    }

    /// Brings back what differs from a generation.
    async fn bring_back(&self, context: &Context<'_>, wanted: &Generation) -> Result<(), Failure> {
        let host = context.host;
        if wanted.restore_files(host)? && host.is_live() {
            systemctl(host, &["daemon-reload"], Duration::from_secs(90)).await?;
        }
        let packages = Packages::read(host)?;
        let differs = wanted.packages.iter().filter(|(name, version)| {
            packages.version(name).is_some_and(|installed| installed != version.as_str())
        });
        let differing: Vec<(&str, &str)> =
            differs.map(|(name, version)| (name.as_str(), version.as_str())).collect();
        if differing.is_empty() {
            return Ok(());
        }
        apt_get::wait_for_lock(context, apt_get::DPKG_LOCK, Duration::from_secs(300)).await?;
        apt_get::hold_services(host)?;
        let changed = install(context, &differing).await;
        let released = apt_get::release_services(host);
        changed.and(released)
    }
}

/// Installs exactly these versions, from an archive or else from what apt has kept of its downloads.
async fn install(context: &Context<'_>, packages: &[(&str, &str)]) -> Result<(), Failure> {
    let host = context.host;
    if Packages::read(host)?.need_repair() {
        apt_get::repair(context).await?;
    }
    let names: Vec<&str> = packages.iter().map(|(name, _)| *name).collect();
    let offers = offers::ask(host, &names).await?;
    let mut sources = Vec::new();
    for (name, version) in packages {
        let source = match offers.get(*name).is_some_and(|offer| offer.has(version)) {
            true => format!("{name}={version}"),
            false => match downloaded(host, name, version) {
                Some(path) => path.display().to_string(),
                None => {
                    return Err(failure_with(
                        format!("{name} {version} is neither in an archive nor in apt's cache any more"),
                        format!(
                            "put its .deb into {CACHE}, or add an archive that has it, then `pgfleet rollback`"
                        ),
                    ));
                }
            },
        };
        sources.push(source);
    }
    let command = apt_get::apt_get()
        .args(["--allow-change-held-packages", "--allow-downgrades", "install", "--"])
        .args(sources.iter().map(String::as_str));
    context.waiting(format!("apt-get install {}", sources.join(" ")));
    apt_get::run(host, &command, "packages could not be brought back").await.map(drop)
}

const CACHE: &str = "/var/cache/apt/archives";

/// A package that apt has downloaded and kept.
fn downloaded(host: &Host, name: &str, version: &str) -> Option<PathBuf> {
    let start = format!("{name}_{}_", version.replace(':', "%3a"));
    let entries = std::fs::read_dir(host.path(CACHE)).ok()?.flatten();
    let mut fitting = entries.filter(|entry| {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        file.starts_with(&start) && file.ends_with(".deb")
    });
    fitting.next().map(|entry| entry.path())
}

impl Manage for KeptGeneration {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        if matches!(self.state, GenerationState::Restored | GenerationState::Previous) {
            return self.look_back(host);
        }
        let all = self.generations(host).all()?;
        let same = match all.last() {
            Some(newest) => newest.is(&self.present(host)?, host)?,
            None => false,
        };
        let mut finding = Finding::unchanged();
        if !same {
            finding.differs(format!(
                "{}: kept as generation {}",
                self.name,
                all.last().map_or(1, |last| last.number + 1)
            ));
        } else if self.state == GenerationState::Only && all.len() > 1 {
            finding.differs(format!("{}: {} earlier generations -> absent", self.name, all.len() - 1));
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let generations = self.generations(host);
        match self.state {
            GenerationState::Kept | GenerationState::Only => {
                let present = self.present(host)?;
                let all = generations.all()?;
                let newest = all.last();
                if !newest.map(|newest| newest.is(&present, host)).transpose()?.unwrap_or(false) {
                    generations.keep(host, present)?;
                }
                generations.trim(if self.state == GenerationState::Only { 1 } else { self.keep.max(1) })
            }
            GenerationState::Restored | GenerationState::Previous => {
                let wanted = self.wanted(host)?.ok_or_else(|| failure("there is no earlier generation"))?;
                // First forgotten, then replaced: should this end in between, the next attempt restores the same.
                generations.forget_after(wanted.number)?;
                self.bring_back(context, &wanted).await
            }
        }
    }

    async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let all = self.generations(host).all()?;
        let lines = match all.last() {
            Some(newest) => Self::differences(host, newest)?,
            None => vec!["nothing was kept".to_owned()],
        };
        if lines.is_empty() {
            return Ok(());
        }
        Err(Failure { last_lines: lines, ..failure(format!("{} is not as it was kept", self.name)) })
    }
}
