//! Parameters of the server: which of them it runs with, on the command line and in the file, and
//! whether two spellings of a value mean the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Server, Settings, tools};

/// Parameters that every member of a cluster must agree on, or that say who this member is. They go on
/// the command line too, where no `ALTER SYSTEM` can override them.
const CLUSTER_WIDE: [(&str, &str); 10] = [
    ("hot_standby", "on"),
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_replication_slots", "10"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("track_commit_timestamp", "off"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
];

/// Defaults of our own, in the file, where the configuration says nothing else.
const DEFAULTS: [(&str, &str); 4] = [
    ("password_encryption", "scram-sha-256"),
    // Recovery after a crash begins by syncing the data. File by file, which is PostgreSQL's default, that
    // takes longer than all the rest, and minutes where there are many tables. Since 14.
    ("recovery_init_sync_method", "syncfs"),
    ("wal_keep_size", "128MB"),
    // How long a standby waits between two attempts to get WAL. At its default of 5 s it is, in bad
    // moments, what a promotion waits for.
    ("wal_retrieve_retry_interval", "200ms"),
];

/// Lowest values with which replication works.
const MINIMA: [(&str, i64); 4] = [
    ("max_wal_senders", 3),
    ("max_replication_slots", 4),
    ("max_worker_processes", 2),
    ("max_connections", 25),
];

/// Parameters that the driver gives itself; whatever the configuration says of them is left out.
pub(super) const OWN: [&str; 10] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "cluster_name",
    "primary_conninfo",
    "primary_slot_name",
];

/// Whether `postgresql.auto.conf` and operators must not set it on a managed server: it would make a
/// standby follow another server, or end its recovery.
pub(super) fn is_recovery_order(name: &str) -> bool {
    matches!(name, "primary_conninfo" | "primary_slot_name" | "promote_trigger_file")
        || (name.starts_with("recovery_target") && name != "recovery_target_timeline")
}

/// Every parameter that a PostgreSQL binary knows by its own account.
pub(super) type Catalogue = BTreeSet<String>;

/// What a server is to run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub command_line: BTreeMap<String, String>,
    pub file: BTreeMap<String, String>,
    /// Left out, because this PostgreSQL does not know them.
    pub unknown: Vec<String>,
}

/// Computes the parameters. A standby gets at least `floor`, the limits of its primary as the control
/// file has them: with less it would refuse to start.
fn plan(
    settings: &Settings,
    unknown: &BTreeSet<String>,
    floor: Option<&BTreeMap<&'static str, i64>>,
) -> Plan {
    let mut file: BTreeMap<String, String> = CLUSTER_WIDE
        .iter()
        .chain(&DEFAULTS)
        .filter(|(name, _)| !unknown.contains(*name))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let given = settings.parameters.iter().chain(&settings.recovery);
    let given = given.map(|(name, value)| (name.to_lowercase(), value));
    let mut left_out = Vec::new();
    for (name, value) in given {
        if unknown.contains(&name) {
            left_out.push(name);
        } else if !OWN.contains(&name.as_str()) && !is_recovery_order(&name) {
            file.insert(name, value.clone());
        }
    }
    for (name, minimum) in MINIMA {
        if let Some(value) = file.get_mut(name)
            && value.trim().parse::<i64>().is_ok_and(|number| number < minimum)
        {
            *value = minimum.to_string();
        }
    }
    file.entry("recovery_target_timeline".to_owned()).or_insert_with(|| "latest".to_owned());
    if !settings.parameters.contains_key("unix_socket_directories")
        && let Some(folder) = &settings.socket_dir
    {
        file.insert("unix_socket_directories".to_owned(), folder.to_string_lossy().into_owned());
    }
    file.insert("cluster_name".to_owned(), settings.scope.to_string());
    file.insert("listen_addresses".to_owned(), settings.listen_addresses.clone());
    file.insert("port".to_owned(), settings.port.to_string());

    let mut command_line: BTreeMap<String, String> = CLUSTER_WIDE
        .iter()
        .map(|(name, _)| *name)
        .chain(["cluster_name", "listen_addresses", "port"])
        .filter_map(|name| file.get_key_value(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, least) in floor.into_iter().flatten() {
        if let Some(value) = command_line.get_mut(*name)
            && value.trim().parse::<i64>().is_ok_and(|number| number < *least)
        {
            *value = least.to_string();
        }
    }
    Plan { command_line, file, unknown: left_out }
}

impl Server {
    /// What the server is to run with; `floor` for a standby.
    pub(super) async fn plan(&self, floor: Option<&BTreeMap<&'static str, i64>>) -> Result<Plan, Error> {
        let settings = self.settings();
        let unknown = self.unknown_parameters(&settings).await?;
        Ok(plan(&settings, &unknown, floor))
    }

    /// Which of the configured parameters and of our defaults this PostgreSQL does not know. The binary is
    /// asked; a parameter of an extension (`name.name`) may become known later and is let through.
    async fn unknown_parameters(&self, settings: &Settings) -> Result<BTreeSet<String>, Error> {
        let program = settings.tool("postgres");
        let cached = self.with_catalogue(|slot| slot.as_ref().filter(|(path, _)| *path == program).cloned());
        let mut catalogue = match cached {
            Some((_, catalogue)) => catalogue,
            None => {
                let mut command = tools::command(&program);
                command.arg("--describe-config");
                let output = tools::run(command, "postgres --describe-config", tools::SHORT).await?;
                let names = output.lines().filter_map(|line| line.split('\t').next());
                std::sync::Arc::new(names.map(str::to_lowercase).collect::<Catalogue>())
            }
        };
        let mut unknown = BTreeSet::new();
        let given =
            settings.parameters.keys().chain(settings.recovery.keys()).map(|name| name.to_lowercase());
        let names = given.chain(DEFAULTS.map(|(name, _)| name.to_owned()));
        for name in names.filter(|name| !name.contains('.') && !OWN.contains(&name.as_str())) {
            if catalogue.contains(&name) {
                continue;
            }
            // Options for developers are in no list: the server itself tells.
            let mut command = tools::command(&program);
            command.arg("-D").arg(&settings.data_dir).args(["-c", "config_file=/dev/null", "-C", &name]);
            match tools::run(command, "postgres -C", tools::SHORT).await {
                Ok(_) => {
                    std::sync::Arc::make_mut(&mut catalogue).insert(name);
                }
                Err(Error::Tool { last_lines, .. }) if last_lines.contains(&name) => {
                    unknown.insert(name);
                }
                Err(error) => return Err(error),
            }
        }
        self.with_catalogue(|slot| *slot = Some((program, catalogue)));
        Ok(unknown)
    }

    fn with_catalogue<T>(
        &self,
        work: impl FnOnce(&mut Option<(std::path::PathBuf, std::sync::Arc<Catalogue>)>) -> T,
    ) -> T {
        work(&mut self.catalogue.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Whether `wanted`, as somebody wrote it, is what runs: `running` is a row of `pg_settings`, in `unit`.
pub(super) fn same_value(name: &str, kind: &str, unit: Option<&str>, wanted: &str, running: &str) -> bool {
    let (wanted, running) = (wanted.trim(), running.trim());
    if wanted == running || is_automatic(name, wanted) {
        return true;
    }
    match kind {
        "bool" => boolean(wanted).is_some() && boolean(wanted) == boolean(running),
        "integer" => {
            let (wanted, running) = (quantity(wanted, unit), quantity(running, unit));
            wanted.is_some() && wanted.map(f64::round) == running.map(f64::round)
        }
        "real" => match (quantity(wanted, unit), quantity(running, unit)) {
            (Some(wanted), Some(running)) => (wanted - running).abs() <= 1e-9 * wanted.abs().max(1.0),
            _ => false,
        },
        "enum" => {
            let level = |value: &str| match value.to_lowercase().as_str() {
                "hot_standby" | "archive" if name == "wal_level" => "replica".to_owned(),
                other => other.to_owned(),
            };
            let on_and_off = boolean(wanted).is_some() && boolean(wanted) == boolean(running);
            on_and_off || level(wanted) == level(running)
        }
        _ => false,
    }
}

/// Values that mean "find out yourself"; `pg_settings` then shows what was found.
fn is_automatic(name: &str, wanted: &str) -> bool {
    match name {
        "wal_buffers" | "io_max_concurrency" => wanted == "-1",
        "transaction_buffers" | "commit_timestamp_buffers" | "subtransaction_buffers" => wanted == "0",
        _ => false,
    }
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_lowercase();
    let is = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    match () {
        () if text == "1" || is("on", 2) || is("true", 1) || is("yes", 1) => Some(true),
        () if text == "0" || is("off", 2) || is("false", 1) || is("no", 1) => Some(false),
        () => None,
    }
}

/// `text`, a number with or without a unit, in `base`, such as `8kB` or `ms`.
fn quantity(text: &str, base: Option<&str>) -> Option<f64> {
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E' | 'x' | 'X'))
        .unwrap_or(text.len());
    let (digits, unit) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) => return i64::from_str_radix(hexadecimal, 16).ok().map(|number| number as f64),
        None => (text[..end].trim(), text[end..].trim()),
    };
    let octal = digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let number: f64 =
        if octal { i64::from_str_radix(digits, 8).ok()? as f64 } else { digits.parse().ok()? };
    match (unit, base) {
        ("", _) => Some(number),
        (unit, Some(base)) => {
            let ((dimension, size), (wanted, divisor)) = (scale(unit)?, base_scale(base)?);
            (dimension == wanted).then(|| number * size / divisor)
        }
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Bytes,
    Seconds,
}

/// A unit as people write it: bytes or seconds in one of it.
fn scale(unit: &str) -> Option<(Dimension, f64)> {
    Some(match unit {
        "B" => (Dimension::Bytes, 1.0),
        "kB" => (Dimension::Bytes, 1024.0),
        "MB" => (Dimension::Bytes, 1024.0 * 1024.0),
        "GB" => (Dimension::Bytes, 1024.0 * 1024.0 * 1024.0),
        "TB" => (Dimension::Bytes, 1024.0 * 1024.0 * 1024.0 * 1024.0),
        "us" => (Dimension::Seconds, 1e-6),
        "ms" => (Dimension::Seconds, 1e-3),
        "s" => (Dimension::Seconds, 1.0),
        "min" => (Dimension::Seconds, 60.0),
        "h" => (Dimension::Seconds, 3600.0),
        "d" => (Dimension::Seconds, 86400.0),
        _ => return None,
    })
}

/// A unit as `pg_settings` has it, which may be a number of them: `8kB`, `16MB`.
fn base_scale(base: &str) -> Option<(Dimension, f64)> {
    let digits = base.find(|c: char| !c.is_ascii_digit())?;
    let count: f64 = if digits == 0 { 1.0 } else { base[..digits].parse().ok()? };
    scale(&base[digits..]).map(|(dimension, size)| (dimension, size * count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_what_they_mean() {
        for (name, kind, unit, wanted, running, same) in [
            ("shared_buffers", "integer", Some("8kB"), "128MB", "16384", true),
            ("shared_buffers", "integer", Some("8kB"), "16384", "16384", true),
            ("shared_buffers", "integer", Some("8kB"), "0.5GB", "65536", true),
            ("shared_buffers", "integer", Some("8kB"), "256MB", "16384", false),
            ("min_wal_size", "integer", Some("MB"), "1GB", "1024", true),
            ("max_connections", "integer", None, "200", "100", false),
            ("checkpoint_timeout", "integer", Some("s"), "15min", "900", true),
            ("checkpoint_timeout", "integer", Some("s"), "1 h", "3600", true),
            ("wal_retrieve_retry_interval", "integer", Some("ms"), "0.2s", "200", true),
            ("unix_socket_permissions", "integer", None, "0777", "511", true),
            ("random_page_cost", "real", None, "1.10", "1.1", true),
            ("vacuum_cost_delay", "real", Some("ms"), "2000us", "2", true),
            ("autovacuum", "bool", None, "yes", "on", true),
            ("autovacuum", "bool", None, "of", "on", false),
            ("wal_log_hints", "bool", None, "TRUE", "on", true),
            ("wal_level", "enum", None, "hot_standby", "replica", true),
            ("wal_level", "enum", None, "logical", "replica", false),
            ("synchronous_commit", "enum", None, "true", "on", true),
            ("synchronous_commit", "enum", None, "Remote_Apply", "remote_apply", true),
            ("archive_command", "string", None, "cp %p", "cp %f", false),
            ("wal_buffers", "integer", Some("8kB"), "-1", "512", true),
            ("shared_buffers", "integer", Some("8kB"), "10min", "16384", false),
            ("shared_buffers", "integer", Some("8kB"), "lots", "16384", false),
        ] {
            assert_eq!(same_value(name, kind, unit, wanted, running), same, "{name}: {wanted} and {running}");
        }
    }

    fn settings(parameters: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::of_test();
        settings.parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings
    }

    #[test]
    fn a_standby_gets_at_least_what_its_primary_has() {
        let settings = settings(&[("max_connections", "50"), ("max_worker_processes", "20")]);
        let floor = BTreeMap::from([("max_connections", 200), ("max_worker_processes", 8)]);
        let standby = plan(&settings, &BTreeSet::new(), Some(&floor));
        assert_eq!(standby.command_line["max_connections"], "200");
        assert_eq!(standby.command_line["max_worker_processes"], "20");
        assert_eq!(standby.file["max_connections"], "50");
        assert_eq!(plan(&settings, &BTreeSet::new(), None).command_line["max_connections"], "50");
    }

    #[test]
    fn a_default_that_this_server_does_not_know_is_left_out_in_silence() {
        let unknown = BTreeSet::from(["recovery_init_sync_method".to_owned()]);
        let older = plan(&settings(&[]), &unknown, None);
        assert!(!older.file.contains_key("recovery_init_sync_method"));
        assert!(older.unknown.is_empty());
        assert_eq!(plan(&settings(&[]), &BTreeSet::new(), None).file["recovery_init_sync_method"], "syncfs");
    }

    #[test]
    fn what_is_ours_or_unknown_is_left_out() {
        let settings = settings(&[
            ("wal_keep_segments", "8"),
            ("PORT", "1"),
            ("primary_conninfo", "host=elsewhere"),
            ("recovery_target_time", "now"),
            ("work_mem", "8MB"),
        ]);
        let unknown = BTreeSet::from(["wal_keep_segments".to_owned()]);
        let plan = plan(&settings, &unknown, None);
        assert_eq!(plan.unknown, ["wal_keep_segments"]);
        assert_eq!(plan.file["work_mem"], "8MB");
        assert_eq!(plan.file["port"], settings.port.to_string());
        for absent in ["wal_keep_segments", "primary_conninfo", "recovery_target_time"] {
            assert!(!plan.file.contains_key(absent), "{absent}");
        }
    }
}
