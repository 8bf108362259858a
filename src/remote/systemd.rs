//! What systemd says of a unit, asked in one call. Changes nothing by itself.

use crate::remote::{
    command::{Invocation, Output},
    host::Host,
    protocol::Failure,
    taken,
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// Properties of a unit as `systemctl show` prints them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unit {
    properties: BTreeMap<String, String>,
}

const PROPERTIES: &str = "LoadState,LoadError,ActiveState,SubState,UnitFileState,NeedDaemonReload,NRestarts,\
                          Result,InvocationID,Type,CanReload,FragmentPath,MainPID";

impl Unit {
    /// What systemd knows of `name`; a unit that doesn't exist has the load state `not-found`.
    pub async fn show(host: &Host, name: &str) -> Result<Self, Failure> {
        if !host.is_live() {
            return Ok(Self::in_tree(host, name));
        }
        let show = Invocation::new("systemctl").args(["show", "--property", PROPERTIES, "--", name]);
        let output = show.success(host, &format!("systemd does not answer about {name}")).await?;
        Ok(Self::parse(&output.stdout))
    }

    /// What the files of a directory tree tell: no systemd runs there to be asked.
    fn in_tree(host: &Host, name: &str) -> Self {
        const FOLDERS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];
        let is_there = |path: String| host.path(path).symlink_metadata().is_ok();
        let exists = FOLDERS.iter().any(|folder| is_there(format!("{folder}/{name}")));
        let enabled = is_there(format!("{}/multi-user.target.wants/{name}", FOLDERS[0]));
        // A unit that runs has its processes in a group of that name.
        let active = is_there(format!("/sys/fs/cgroup/system.slice/{name}"));
        let properties = [
            ("LoadState", if exists { "loaded" } else { "not-found" }),
            ("ActiveState", if active { "active" } else { "inactive" }),
            ("SubState", if active { "running" } else { "dead" }),
            ("UnitFileState", if enabled { "enabled" } else { "disabled" }),
        ];
        Self { properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into() }
    }

    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self { properties: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    pub fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    pub fn exists(&self) -> bool {
        !matches!(self.get("LoadState"), "not-found" | "")
    }

    pub fn is_masked(&self) -> bool {
        self.get("LoadState") == "masked"
    }

    pub fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading")
    }

    /// A unit that does its work and ends; being inactive after a success is what it is for.
    pub fn has_finished(&self) -> bool {
        self.get("Type") == "oneshot"
            && self.get("ActiveState") == "inactive"
            && self.get("Result") == "success"
    }

    /// `active (running)` and the like.
    pub fn state(&self) -> String {
        format!("{} ({})", self.get("ActiveState"), self.get("SubState"))
    }

    /// Its main process; none where it has none.
    pub fn main_pid(&self) -> Option<i32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    pub fn needs_daemon_reload(&self) -> bool {
        self.get("NeedDaemonReload") == "yes"
    }
}

/// `name` with the ending that systemd would assume.
pub(crate) fn full_name(name: &str) -> String {
    const ENDINGS: &[&str] = &[
        "service",
        "socket",
        "timer",
        "target",
        "mount",
        "path",
        "slice",
        "scope",
        "swap",
        "device",
        "automount",
    ];
    match name.rsplit_once('.') {
        Some((_, ending)) if ENDINGS.contains(&ending) => name.to_owned(),
        _ => format!("{name}.service"),
    }
}

/// Runs `systemctl` with these words.
pub(crate) async fn systemctl(host: &Host, words: &[&str], limit: Duration) -> Result<Output, Failure> {
    let command = Invocation::new("systemctl").args(words.iter().copied()).limit(limit);
    command.success(host, &format!("`systemctl {}` failed", words.join(" "))).await
}

/// So many lines of a journal tell why a unit is not up.
const LINES: usize = 15;

/// The last journal lines of a unit; empty when there are none.
pub(crate) async fn journal(host: &Host, name: &str) -> Vec<String> {
    if !host.is_live() {
        return Vec::new();
    }
    let journal = Invocation::new("journalctl")
        .args(["--unit", name, "--lines", "200", "--no-pager", "--quiet", "--output", "cat"])
        .limit(Duration::from_secs(10));
    match journal.output(host).await {
        Ok(output) => {
            let mut lines: Vec<String> =
                output.stdout.lines().filter(|line| !is_of_others(line)).map(readable).collect();
            lines.split_off(lines.len().saturating_sub(LINES))
        }
        // The journal is told where there is one; its absence isn't the failure to report.
        Err(_) => Vec::new(),
    }
}

/// What systemd remarks on at every start of a unit whose processes outlive it, as PostgreSQL does its agent.
fn is_of_others(line: &str) -> bool {
    [
        "Found left-over process",
        "remains running after unit stopped",
        "This usually indicates unclean termination",
    ]
    .iter()
    .any(|remark| line.contains(remark))
}

/// A line as people read it: of a log entry in JSON, its level, its message and the error.
fn readable(line: &str) -> String {
    let entry: Option<Value> = line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten();
    let Some(entry) = entry.filter(|entry| entry["msg"].is_string()) else { return line.to_owned() };
    let parts = ["level", "msg", "error"].map(|key| entry[key].as_str());
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// `failure` with the unit's last journal lines, and with who has its port where they complain about that.
pub(crate) async fn with_journal(host: &Host, unit: &str, mut failure: Failure) -> Failure {
    let lines = journal(host, unit).await;
    if !lines.is_empty() {
        failure.last_lines = lines;
    }
    let mut failure = taken::explain(host, unit, failure);
    if failure.next_step.is_none() {
        failure.next_step =
            Some(format!("on the host: `journalctl -u {unit}`; repair the cause, then run again"));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_ending_that_systemd_assumes() {
        assert_eq!(full_name("etcd"), "etcd.service");
        assert_eq!(full_name("apt-daily.timer"), "apt-daily.timer");
        assert_eq!(full_name("postgresql@17-main"), "postgresql@17-main.service");
    }

    #[test]
    fn entries_of_a_log_in_json_are_told_in_words() {
        let line = r#"{"level":"fatal","ts":"2026","msg":"discovery failed","error":"listen tcp :2379","stacktrace":"main"}"#;
        assert_eq!(readable(line), "fatal: discovery failed: listen tcp :2379");
        assert_eq!(readable("plain {text}"), "plain {text}");
    }

    #[test]
    fn remarks_on_what_outlives_a_unit_are_left_out() {
        for (line, of_others) in [
            (
                "x.service: Found left-over process 164 (postgres) in control group while starting unit. Ignoring.",
                true,
            ),
            ("x.service: Unit process 183 (postgres) remains running after unit stopped.", true),
            (
                "This usually indicates unclean termination of a previous run, or service implementation deficiencies.",
                true,
            ),
            ("x.service: Failed with result 'exit-code'.", false),
        ] {
            assert_eq!(is_of_others(line), of_others, "{line}");
        }
    }

    #[test]
    fn a_finished_oneshot_is_told_from_a_failed_one() {
        let unit = Unit::parse("Type=oneshot\nActiveState=inactive\nResult=success\nLoadState=loaded\n");
        assert!(unit.exists() && unit.has_finished() && !unit.is_active());
        assert!(!Unit::parse("Type=oneshot\nActiveState=failed\nResult=exit-code\n").has_finished());
        assert!(!Unit::parse("LoadState=not-found\n").exists());
    }
}
