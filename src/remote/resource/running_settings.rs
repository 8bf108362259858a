//! Settings as a running server has them, and what changing each costs. Asked through psql on the server's
//! own socket; changes nothing.

use crate::remote::{
    command::Invocation,
    host::Host,
    protocol::{Effect, Setting},
};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// Settings that a standby must not have lower than its primary.
const NOT_LOWER_ON_STANDBYS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

const QUERY: &str = "SELECT json_object_agg(name, json_build_object('context', context, 'value', \
                     current_setting(name, true))) FROM pg_settings WHERE name = ANY (:'names'::text[]);\n";

/// Where the server is, and as whom it lets us ask.
pub(super) struct Server<'a> {
    pub socket_dir: &'a str,
    pub port: u16,
    pub superuser: &'a str,
    pub password: Option<&'a str>,
}

/// A setting of the running server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Running {
    /// When a change of it comes into force, in the words of `pg_settings`.
    context: String,
    value: Option<String>,
}

pub(super) type RunningSettings = BTreeMap<String, Running>;

impl Server<'_> {
    /// What the server says about those of the settings that it knows.
    pub async fn ask(&self, host: &Host, names: &[&str]) -> Result<RunningSettings, String> {
        let psql = Invocation::new("psql")
            .args(["--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"])
            .args(["--host", self.socket_dir, "--port", &self.port.to_string()])
            .args(["--username", self.superuser, "--dbname", "postgres"])
            .args(["--set", "ON_ERROR_STOP=1", "--set", &format!("names={}", array(names))])
            .stdin(QUERY)
            .user(Some("postgres"))
            .limit(Duration::from_secs(10));
        let psql = match self.password {
            Some(password) => psql.environment("PGPASSWORD", password),
            None => psql,
        };
        let output = psql.output(host).await.map_err(|failure| failure.message)?;
        let text = output.stdout.trim();
        match serde_json::from_str(if text.is_empty() { "{}" } else { text }) {
            Ok(settings) if output.is_success() => Ok(settings),
            _ => Err(output.last_lines().pop().unwrap_or_else(|| "psql says nothing".to_owned())),
        }
    }
}

/// Names as PostgreSQL writes an array of them.
fn array(names: &[&str]) -> String {
    let quoted = names.iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// Whether any of the settings comes into force by a restart alone.
pub(super) fn need_restart(settings: &[Setting]) -> bool {
    settings.iter().any(|setting| setting.effect >= Effect::Restart)
}

/// What the change costs, given what the server says about the setting: a restart goes through the standbys
/// and a switchover, unless there is nobody to switch to, or the primary has to come first.
pub(super) fn cost(
    name: &str,
    running: Option<&Running>,
    old: Option<&str>,
    new: Option<&str>,
    others: bool,
) -> Effect {
    match running.map(|running| running.context.as_str()) {
        Some("internal") => Effect::None,
        Some("postmaster") if old.is_some() && old == new => Effect::Reload,
        Some("postmaster") if !others => Effect::Outage,
        Some("postmaster") if NOT_LOWER_ON_STANDBYS.contains(&name) && is_lower(old, new) => Effect::Outage,
        Some("postmaster") => Effect::Switchover,
        _ => Effect::Reload,
    }
}

fn is_lower(old: Option<&str>, new: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<i64>().ok());
    number(old).zip(number(new)).is_some_and(|(old, new)| new < old)
}

impl Running {
    pub fn value(&self) -> Option<String> {
        self.value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_costs_what_its_context_says() {
        let running = |context: &str| Running { context: context.to_owned(), value: None };
        let cost = |name: &str, context: &str, old: &str, new: &str, others: bool| {
            cost(name, Some(&running(context)), Some(old), Some(new), others)
        };
        for (name, context, old, new, others, expected) in [
            ("work_mem", "user", "4MB", "8MB", true, Effect::Reload),
            ("archive_command", "sighup", "", "true", true, Effect::Reload),
            ("shared_buffers", "postmaster", "128MB", "1GB", true, Effect::Switchover),
            ("shared_buffers", "postmaster", "128MB", "1GB", false, Effect::Outage),
            ("shared_buffers", "postmaster", "1GB", "1GB", true, Effect::Reload),
            ("max_connections", "postmaster", "100", "200", true, Effect::Switchover),
            ("max_connections", "postmaster", "200", "100", true, Effect::Outage),
            ("block_size", "internal", "8192", "4096", true, Effect::None),
        ] {
            assert_eq!(cost(name, context, old, new, others), expected, "{name} {old} -> {new}");
        }
        assert_eq!(
            super::cost("x.y", None, None, Some("on"), true),
            Effect::Reload,
            "not known to the server"
        );
    }

    #[test]
    fn names_are_quoted_as_an_array() {
        assert_eq!(array(&["work_mem", r#"a"b\c"#]), r#"{"work_mem","a\"b\\c"}"#);
    }
}
