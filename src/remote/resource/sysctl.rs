//! Kernel parameters.

use super::{Presence, placement::Placement};
use crate::{
    model::Digest,
    remote::{
        files,
        host::{Context, Finding, Host, Manage, failure_with},
        protocol::Failure,
    },
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::{io::ErrorKind, path::PathBuf};

/// `sysctl`: kernel parameters, kept in a file and set now. What the kernel refuses (a container's
/// does) is a warning: the file still says it for the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    #[serde(default, alias = "key")]
    pub name: Option<String>,
    #[serde(default, alias = "val")]
    pub value: Option<String>,
    /// Several at once, instead of `name` and `value`.
    #[serde(default)]
    pub values: IndexMap<String, String>,
    #[serde(default)]
    pub state: Presence,
    #[serde(default = "sysctl_file")]
    pub sysctl_file: String,
    /// Set the running kernel's value too.
    #[serde(default = "super::yes", alias = "reload")]
    pub sysctl_set: bool,
}

fn sysctl_file() -> String {
    "/etc/sysctl.d/90-pgfleet.conf".to_owned()
}

impl Sysctl {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (&self.name, &self.value, self.values.is_empty()) {
            (None, None, false) => Ok(()),
            (Some(_), Some(_), true) => Ok(()),
            (Some(_), None, true) if self.state == Presence::Absent => Ok(()),
            _ => Err("expected `name` and `value`, or `values`".to_owned()),
        }
    }
}

/// What the running kernel says about one parameter.
enum Live {
    Same,
    Differs(String),
    /// It can't be set here, and why.
    Refused(String),
}

impl Sysctl {
    fn wanted(&self) -> Vec<(&str, &str)> {
        let one = self.name.as_deref().map(|name| (name, self.value.as_deref().unwrap_or_default()));
        one.into_iter()
            .chain(self.values.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .collect()
    }

    /// The file's text with every wanted line in it (or, when they are to be absent, without them).
    fn text(&self, old: &str) -> String {
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        for (name, value) in self.wanted() {
            let is_its_own = |line: &String| key_of(line).is_some_and(|key| key == plain(name));
            let place = lines.iter().position(is_its_own);
            lines.retain(|line| !is_its_own(line));
            if self.state == Presence::Present {
                lines.insert(place.unwrap_or(lines.len()).min(lines.len()), format!("{name} = {value}"));
            }
        }
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    fn live(&self, host: &Host, name: &str, value: &str) -> Live {
        let path = proc_path(host, name);
        let current = match std::fs::read_to_string(&path) {
            Ok(current) => current,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Live::Refused("this kernel has no such parameter".to_owned());
            }
            Err(error) => return Live::Refused(error.to_string()),
        };
        if words(&current) == words(value) {
            return Live::Same;
        }
        // Opening for writing changes nothing, and tells what a container's kernel refuses.
        match std::fs::OpenOptions::new().write(true).open(&path) {
            Ok(_) => Live::Differs(words(&current)),
            Err(error) => Live::Refused(format!("the kernel keeps {} ({error})", words(&current))),
        }
    }
}

/// A parameter's name as `/proc/sys` would have it.
fn plain(name: &str) -> String {
    name.trim_start_matches('-').replace('.', "/")
}

fn proc_path(host: &Host, name: &str) -> PathBuf {
    host.path(format!("/proc/sys/{}", plain(name)))
}

/// The parameter that a line of a file sets.
fn key_of(line: &str) -> Option<String> {
    let line = line.trim();
    let (key, _) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
    Some(plain(key.trim()))
}

/// The value with single blanks, as `4096\t87380` and `4096 87380` mean the same.
fn words(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Manage for Sysctl {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        let old = files::read_text(&host.path(&self.sysctl_file))?;
        let text = self.text(&old);
        let mut finding = if text == old && (text.is_empty() || self.state == Presence::Absent) {
            Finding::unchanged()
        } else {
            Placement::public(&self.sysctl_file)
                .check(context, Digest::of(text.as_bytes()), Some(text.as_bytes()))?
                .shared()
        };
        if self.sysctl_set && self.state == Presence::Present {
            for (name, value) in self.wanted() {
                match self.live(host, name, value) {
                    Live::Same => {}
                    Live::Differs(current) => {
                        finding.differs(format!("{name}: {current} -> {}", words(value)))
                    }
                    Live::Refused(why) => {
                        finding.warnings.push(format!("{name} = {value} is not in force: {why}"))
                    }
                }
            }
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let old = files::read_text(&host.path(&self.sysctl_file))?;
        let text = self.text(&old);
        if text != old || !old.is_empty() {
            Placement::public(&self.sysctl_file).apply(context, text.as_bytes()).await?;
        }
        if !self.sysctl_set || self.state == Presence::Absent {
            return Ok(());
        }
        for (name, value) in self.wanted() {
            if !matches!(self.live(host, name, value), Live::Differs(_)) {
                continue;
            }
            match std::fs::write(proc_path(host, name), value) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
                {
                    finding
                        .warnings
                        .push(format!("{name} = {value} is not in force: the kernel refuses ({error})"));
                }
                Err(error) => {
                    return Err(failure_with(
                        format!("the kernel refuses {name} = {value}: {error}"),
                        "correct the value; it is out of the parameter's range, or no such value",
                    ));
                }
            }
        }
        Ok(())
    }

    /// What was set reads back; what was refused has been said.
    async fn verify(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        if !self.sysctl_set || self.state == Presence::Absent {
            return Ok(());
        }
        for (name, value) in self.wanted() {
            if let Live::Differs(current) = self.live(context.host, name, value)
                && !finding.warnings.iter().any(|warning| warning.starts_with(name))
            {
                finding
                    .warnings
                    .push(format!("{name} = {value} is not in force: the kernel made it {current}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sysctl(args: serde_json::Value) -> Sysctl {
        crate::remote::arguments::read(args).expect("arguments")
    }

    #[test]
    fn lines_are_replaced_where_they_are() {
        let two = sysctl(json!({"values": {"vm.swappiness": 1, "net.core.somaxconn": 1024}}));
        let text = two.text("# ours\nvm.swappiness=60\nvm.swappiness = 61\nkernel.x = 1\n");
        assert_eq!(text, "# ours\nvm.swappiness = 1\nkernel.x = 1\nnet.core.somaxconn = 1024\n");
        assert_eq!(two.text(&text), text);
        let gone = sysctl(json!({"name": "vm.swappiness", "state": "absent"}));
        assert_eq!(gone.text(&text), "# ours\nkernel.x = 1\nnet.core.somaxconn = 1024\n");
    }
}
