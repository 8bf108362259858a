//! What the archives offer of a package, as apt sees it, and what that means for an upgrade. Reading and judging
//! are pure; asking is `apt-cache`.

use crate::remote::{command::Invocation, host::Host, protocol::Failure};
use std::collections::BTreeMap;

/// A package as the archives offer it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// What apt would install: the newest one, unless a preference says otherwise.
    pub candidate: Option<String>,
    /// Every version that is known, the newest first, and whether an archive has it.
    versions: Vec<(String, bool)>,
}

/// Where an installed package is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is right as it is.
    Stay,
    To(String),
    /// What is named is older than what is installed.
    Back(String),
    /// No archive has the version that is named.
    NotOffered,
}

impl Offer {
    /// Whether an archive has exactly this version.
    pub fn has(&self, version: &str) -> bool {
        self.versions.iter().any(|(known, offered)| known == version && *offered)
    }

    /// Every version that an archive has, the newest first.
    pub fn offered(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().filter(|(_, offered)| *offered).map(|(version, _)| version.as_str())
    }

    /// Where a package goes from `installed`: to the version that is named, else to apt's candidate.
    pub fn way(&self, installed: &str, named: Option<&str>) -> Way {
        let target = match named {
            Some(named) if names(named, installed) => return Way::Stay,
            Some(named) => match self.offered().find(|version| names(named, version)) {
                Some(version) => version,
                None => return Way::NotOffered,
            },
            None => match self.candidate.as_deref() {
                Some(candidate) => candidate,
                None => return Way::Stay,
            },
        };
        let place = |wanted: &str| self.versions.iter().position(|(version, _)| version == wanted);
        // The table is ordered by dpkg's own rules: what stands above is newer.
        match (place(target), place(installed)) {
            (Some(target_at), Some(installed_at)) if target_at < installed_at => Way::To(target.to_owned()),
            (Some(target_at), Some(installed_at)) if target_at > installed_at && named.is_some() => {
                Way::Back(target.to_owned())
            }
            _ => Way::Stay,
        }
    }
}

/// Whether what somebody has named means this version: as a whole, or by its upstream part.
fn names(named: &str, version: &str) -> bool {
    let upstream = upstream(version);
    named == version
        || upstream == named
        || upstream.strip_prefix(named).is_some_and(|rest| rest.starts_with('.'))
}

/// A Debian version without its epoch and revision.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

/// Whether a minor version lies between two, or one is of another major version.
pub(super) fn skips_a_minor(from: &str, to: &str) -> bool {
    let numbers = |version: &str| {
        let mut parts = upstream(version).split('.').map(|part| {
            part.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse::<u32>()
                .unwrap_or_default()
        });
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    };
    let ((major, minor), (to_major, to_minor)) = (numbers(from), numbers(to));
    major != to_major || to_minor > minor + 1
}

/// What apt knows of packages, by the lists at hand.
pub(super) async fn ask(host: &Host, names: &[&str]) -> Result<BTreeMap<String, Offer>, Failure> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let policy = Invocation::new("apt-cache").args(["policy", "--"]).args(names.iter().copied());
    Ok(parse(&policy.success(host, "apt does not answer").await?.stdout))
}

/// Reads what `apt-cache policy` prints of several packages.
fn parse(text: &str) -> BTreeMap<String, Offer> {
    let mut offers: BTreeMap<String, Offer> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            package.clone_into(&mut name);
            continue;
        }
        let offer = offers.entry(name.clone()).or_default();
        if let Some(candidate) = line.trim().strip_prefix("Candidate: ") {
            offer.candidate = (candidate != "(none)").then(|| candidate.to_owned());
        } else if let Some(source) = line.strip_prefix("        ") {
            // An archive that has the version in the line above; dpkg's own file is none.
            if let Some((_, offered)) = offer.versions.last_mut() {
                *offered |= !source.ends_with("/var/lib/dpkg/status");
            }
        } else if line.starts_with("     ") || line.starts_with(" *** ") {
            let mut words = line.trim_start_matches([' ', '*']).split(' ');
            if let (Some(version), Some(_priority)) = (words.next(), words.next()) {
                offer.versions.push((version.to_owned(), false));
            }
        }
    }
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
postgresql-15:
  Installed: 15.14-0+deb12u1
  Candidate: 15.16-0+deb12u1
  Version table:
     15.16-0+deb12u1 500
        500 http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
     15.15-0+deb12u1 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
 *** 15.14-0+deb12u1 100
        100 /var/lib/dpkg/status
     15.3-0+deb12u1 500
        500 http://old.example bookworm/main amd64 Packages
haproxy:
  Installed: 2.6.12-1
  Candidate: 2.6.12-1
  Version table:
 *** 2.6.12-1 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
strange:
  Installed: (none)
  Candidate: (none)
  Version table:
";

    #[test]
    fn an_upgrade_goes_to_what_is_newest_or_named_and_never_back() {
        let offers = parse(POLICY);
        let to = |version: &str| Way::To(version.to_owned());
        for (package, installed, named, way) in [
            ("postgresql-15", "15.14-0+deb12u1", None, to("15.16-0+deb12u1")),
            ("postgresql-15", "15.14-0+deb12u1", Some("15.15"), to("15.15-0+deb12u1")),
            ("postgresql-15", "15.14-0+deb12u1", Some("15.15-0+deb12u1"), to("15.15-0+deb12u1")),
            ("postgresql-15", "15.14-0+deb12u1", Some("15"), Way::Stay),
            ("postgresql-15", "15.14-0+deb12u1", Some("15.14"), Way::Stay),
            ("postgresql-15", "15.14-0+deb12u1", Some("15.3"), Way::Back("15.3-0+deb12u1".to_owned())),
            ("postgresql-15", "15.14-0+deb12u1", Some("15.1"), Way::NotOffered),
            ("postgresql-15", "15.14-0+deb12u1", Some("16"), Way::NotOffered),
            ("haproxy", "2.6.12-1", None, Way::Stay),
            ("strange", "1", None, Way::Stay),
        ] {
            assert_eq!(offers[package].way(installed, named), way, "{package} {named:?}");
        }
        assert!(offers["postgresql-15"].has("15.15-0+deb12u1"));
        assert!(!offers["postgresql-15"].has("15.14-0+deb12u1"), "dpkg's own file is no archive");
    }

    #[test]
    fn a_minor_version_that_is_left_out_is_seen() {
        for (from, to, skips) in [
            ("3.4.23-4", "3.4.30-1", false),
            ("3.4.23-4", "3.5.16-4", false),
            ("3.4.23-4+b1", "3.6.0-1", true),
            ("1:3.5.16-4", "1:3.6.0~rc1-1", false),
            ("3.5.16", "4.0.0", true),
        ] {
            assert_eq!(skips_a_minor(from, to), skips, "{from} -> {to}");
        }
    }
}
