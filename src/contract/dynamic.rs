//! `config`: the dynamic configuration that all members of a cluster share.

use super::member::truthy;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The dynamic configuration with its defaults filled in and its limits kept. Times are whole seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    pub ttl: u64,
    pub loop_wait: u64,
    pub retry_timeout: u64,
    /// A standby further behind than this does not run for leader.
    pub maximum_lag_on_failover_bytes: u64,
    /// A synchronous standby further behind than this is exchanged; `None`: never.
    pub maximum_lag_on_syncnode_bytes: Option<u64>,
    pub check_timeline: bool,
    /// Entries kept in `history`; 0: all.
    pub max_timelines_history: u64,
    /// How long a crashed primary may take to come back before another takes over; 0: no time at all.
    pub primary_start_timeout: u64,
    /// How long a primary may take to stop before it is killed, in synchronous modes; 0: no limit.
    pub primary_stop_timeout: u64,
    pub primary_race_backoff: u64,
    pub synchronous_mode: SynchronousMode,
    pub synchronous_mode_strict: bool,
    pub synchronous_node_count: u32,
    pub failsafe_mode: bool,
    pub pause: bool,
    /// How long the slot of a member that went away is kept.
    pub member_slots_ttl: u64,
    /// Permanent replication slots, by name.
    pub slots: Map<String, Value>,
    pub ignore_slots: Vec<Value>,
    pub postgresql: DynamicPostgresql,
    pub standby_cluster: Option<StandbyCluster>,
    /// The document as it stands in the store, with keys that this version has no name for.
    pub document: Map<String, Value>,
}

/// The section `postgresql` of the dynamic configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicPostgresql {
    pub use_slots: bool,
    pub use_pg_rewind: bool,
    pub remove_data_directory_on_rewind_failure: bool,
    pub remove_data_directory_on_diverged_timelines: bool,
    pub pg_ctl_timeout: u64,
    /// Server parameters, written as `postgresql.conf` writes them.
    pub parameters: BTreeMap<String, String>,
    /// `None`: not given here.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub recovery_conf: BTreeMap<String, String>,
}

/// How commits wait for standbys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynchronousMode {
    #[default]
    Off,
    /// `FIRST n (...)`: named standbys, of which only those in `/sync` may take over.
    On,
    /// `ANY n (...)`.
    Quorum,
}

impl SynchronousMode {
    pub fn is_on(self) -> bool {
        self != SynchronousMode::Off
    }

    pub fn is_quorum(self) -> bool {
        self == SynchronousMode::Quorum
    }
}

/// Where a cluster that follows another cluster replicates from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyCluster {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub primary_slot_name: Option<String>,
    pub restore_command: Option<String>,
    pub archive_cleanup_command: Option<String>,
    pub recovery_min_apply_delay: Option<String>,
    pub create_replica_methods: Vec<String>,
}

impl DynamicConfig {
    /// The shortest ttl that is accepted. etcd's own lower bound is 2 s with its default election timeout.
    pub const MIN_TTL: u64 = 3;
    pub const MIN_LOOP_WAIT: u64 = 1;
    pub const MIN_RETRY_TIMEOUT: u64 = 1;

    /// Reads a configuration document. It never fails: a value that makes no sense is replaced by its
    /// default and named in the list of warnings.
    pub fn from_json(document: &Value) -> (Self, Vec<String>) {
        let empty = Map::new();
        let mut warnings = Vec::new();
        if !document.is_object() {
            warnings.push("the dynamic configuration is not a map; the defaults apply".to_owned());
        }
        let map = document.as_object().unwrap_or(&empty);
        let mut reader = Reader { map, prefix: "", warnings: &mut warnings };

        let mut config = Self {
            ttl: reader.seconds(&["ttl"], 30, Self::MIN_TTL),
            loop_wait: reader.seconds(&["loop_wait"], 10, Self::MIN_LOOP_WAIT),
            retry_timeout: reader.seconds(&["retry_timeout"], 10, Self::MIN_RETRY_TIMEOUT),
            maximum_lag_on_failover_bytes: reader.bytes("maximum_lag_on_failover").unwrap_or(1_048_576),
            maximum_lag_on_syncnode_bytes: reader.bytes("maximum_lag_on_syncnode"),
            check_timeline: reader.flag("check_timeline", false),
            max_timelines_history: reader.count("max_timelines_history", 0),
            primary_start_timeout: reader.seconds(&["primary_start_timeout", "master_start_timeout"], 300, 0),
            primary_stop_timeout: reader.seconds(&["primary_stop_timeout", "master_stop_timeout"], 0, 0),
            primary_race_backoff: reader.seconds(&["primary_race_backoff"], 0, 0),
            synchronous_mode: reader.synchronous_mode(),
            synchronous_mode_strict: reader.flag("synchronous_mode_strict", false),
            synchronous_node_count: reader
                .count("synchronous_node_count", 1)
                .clamp(1, u64::from(u16::MAX))
                .try_into()
                .unwrap_or(1),
            failsafe_mode: reader.flag("failsafe_mode", false),
            pause: reader.flag("pause", false),
            member_slots_ttl: reader.seconds(&["member_slots_ttl"], 1_800, 0),
            slots: reader.slots(),
            ignore_slots: reader.list("ignore_slots"),
            postgresql: DynamicPostgresql::default(),
            standby_cluster: None,
            document: map.clone(),
        };
        if let Some(section) = reader.section("postgresql") {
            config.postgresql = DynamicPostgresql::of(section, &mut warnings);
        }
        if let Some(section) = map.get("standby_cluster").and_then(Value::as_object) {
            config.standby_cluster = StandbyCluster::of(section);
        }
        config.keep_limits(&mut warnings);
        (config, warnings)
    }

    /// Makes `loop_wait + 2 * retry_timeout <= ttl` true: a leader whose every call to the store takes as
    /// long as it may still renews before its lease ends. `loop_wait` gives way first.
    fn keep_limits(&mut self, warnings: &mut Vec<String>) {
        if self.loop_wait + 2 * self.retry_timeout <= self.ttl {
            return;
        }
        let asked = (self.loop_wait, self.retry_timeout);
        self.loop_wait = self.ttl.saturating_sub(2 * self.retry_timeout).max(Self::MIN_LOOP_WAIT);
        if self.loop_wait + 2 * self.retry_timeout > self.ttl {
            self.retry_timeout = (self.ttl.saturating_sub(self.loop_wait) / 2).max(Self::MIN_RETRY_TIMEOUT);
        }
        warnings.push(format!(
            "loop_wait {} + 2 * retry_timeout {} exceeds ttl {}; using loop_wait {} and retry_timeout {}",
            asked.0, asked.1, self.ttl, self.loop_wait, self.retry_timeout
        ));
    }
}

impl Default for DynamicConfig {
    fn default() -> Self {
        Self::from_json(&Value::Object(Map::new())).0
    }
}

impl Default for DynamicPostgresql {
    fn default() -> Self {
        Self::of(&Map::new(), &mut Vec::new())
    }
}

impl DynamicPostgresql {
    fn of(map: &Map<String, Value>, warnings: &mut Vec<String>) -> Self {
        let mut reader = Reader { map, prefix: "postgresql.", warnings };
        Self {
            use_slots: reader.flag("use_slots", true),
            use_pg_rewind: reader.flag("use_pg_rewind", false),
            remove_data_directory_on_rewind_failure: reader
                .flag("remove_data_directory_on_rewind_failure", false),
            remove_data_directory_on_diverged_timelines: reader
                .flag("remove_data_directory_on_diverged_timelines", false),
            pg_ctl_timeout: reader.seconds(&["pg_ctl_timeout"], 60, 1),
            parameters: reader.parameters("parameters"),
            pg_hba: reader.lines("pg_hba"),
            pg_ident: reader.lines("pg_ident"),
            recovery_conf: reader.parameters("recovery_conf"),
        }
    }
}

impl StandbyCluster {
    fn of(map: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| match map.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let section = Self {
            host: text("host"),
            port: text("port").and_then(|port| port.parse().ok()),
            primary_slot_name: text("primary_slot_name"),
            restore_command: text("restore_command"),
            archive_cleanup_command: text("archive_cleanup_command"),
            recovery_min_apply_delay: text("recovery_min_apply_delay"),
            create_replica_methods: map
                .get("create_replica_methods")
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        let follows = section.host.is_some() || section.port.is_some() || section.restore_command.is_some();
        follows.then_some(section)
    }
}

/// Reads one level of the document and collects what is wrong with it.
struct Reader<'a, 'w> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
    warnings: &'w mut Vec<String>,
}

impl<'a> Reader<'a, '_> {
    /// The value under a key; `null` is as good as nothing.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn warn(&mut self, key: &str, value: &Value, expected: &str, instead: impl std::fmt::Display) {
        self.warnings.push(format!("{}{key}: {value} is not {expected}; using {instead}", self.prefix));
    }

    /// Seconds under the first of several names for one thing.
    fn seconds(&mut self, names: &[&str], default: u64, minimum: u64) -> u64 {
        let Some((key, value)) = names.iter().find_map(|name| Some((*name, self.get(name)?))) else {
            return default;
        };
        match parse_time_secs(value) {
            Some(seconds) if seconds >= minimum => seconds,
            Some(_) => {
                self.warn(key, value, &format!("at least {minimum} s"), minimum);
                minimum
            }
            None => {
                self.warn(key, value, "a time in seconds", default);
                default
            }
        }
    }

    /// A size; negative means that there is no limit.
    fn bytes(&mut self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        if value.as_i64().is_some_and(|number| number < 0) {
            return None;
        }
        let parsed = match value {
            Value::String(text) => parse_size_bytes(text),
            other => other.as_u64(),
        };
        if parsed.is_none() {
            self.warn(key, value, "a size in bytes", "the default");
        }
        parsed
    }

    fn count(&mut self, key: &str, default: u64) -> u64 {
        let Some(value) = self.get(key) else { return default };
        let parsed = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        parsed.unwrap_or_else(|| {
            self.warn(key, value, "a whole number", default);
            default
        })
    }

    fn flag(&mut self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, truthy)
    }

    fn synchronous_mode(&mut self) -> SynchronousMode {
        match self.get("synchronous_mode") {
            Some(Value::String(word)) if word.eq_ignore_ascii_case("quorum") => SynchronousMode::Quorum,
            Some(value) if truthy(value) => SynchronousMode::On,
            Some(Value::String(word))
                if !["off", "false", "no", "0", ""].contains(&word.to_ascii_lowercase().as_str()) =>
            {
                let value = Value::String(word.clone());
                self.warn("synchronous_mode", &value, "one of off, on, quorum", "off");
                SynchronousMode::Off
            }
            _ => SynchronousMode::Off,
        }
    }

    fn slots(&mut self) -> Map<String, Value> {
        let names = ["slots", "permanent_slots", "permanent_replication_slots"];
        names.iter().find_map(|name| self.section(name)).cloned().unwrap_or_default()
    }

    fn section(&mut self, key: &str) -> Option<&'a Map<String, Value>> {
        let value = self.get(key)?;
        if !value.is_object() {
            self.warn(key, value, "a map", "the defaults");
        }
        value.as_object()
    }

    fn list(&mut self, key: &str) -> Vec<Value> {
        self.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    fn lines(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.get(key)?;
        match value {
            Value::Array(lines) => {
                Some(lines.iter().filter_map(Value::as_str).map(|line| line.trim().to_owned()).collect())
            }
            Value::String(text) => Some(text.lines().map(|line| line.trim().to_owned()).collect()),
            other => {
                self.warn(key, other, "a list of lines", "nothing");
                None
            }
        }
    }

    fn parameters(&mut self, key: &str) -> BTreeMap<String, String> {
        let Some(map) = self.section(key) else { return BTreeMap::new() };
        let mut parameters = BTreeMap::new();
        for (name, value) in map {
            match parameter_text(value) {
                Some(text) => drop(parameters.insert(name.to_ascii_lowercase(), text)),
                None if value.is_null() => {}
                None => self.warn(&format!("{key}.{name}"), value, "a scalar", "the server's default"),
            }
        }
        parameters
    }
}

/// A parameter's value as `postgresql.conf` has it; `None` for null, lists and maps.
pub fn parameter_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Applies `patch` as `PATCH /config` does: maps are merged, `null` deletes, all else replaces.
pub fn merge_patch(document: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (document.get_mut(key), value) {
            (_, Value::Null) => drop(document.shift_remove(key)),
            (Some(Value::Object(inner)), Value::Object(patch)) => merge_patch(inner, patch),
            (_, Value::Object(patch)) => {
                let mut inner = Map::new();
                merge_patch(&mut inner, patch);
                document.insert(key.clone(), Value::Object(inner));
            }
            (_, value) => drop(document.insert(key.clone(), value.clone())),
        }
    }
}

/// Bytes of `1048576`, `16kB`, `10MB`, `1GB`, `1TB`, as PostgreSQL writes sizes. `None` if it is none.
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    scale(number, factor as f64)
}

/// Whole seconds of `30`, `"30"`, `30s`, `5min`, `1h`, `2d`, `1500ms`. `None` if it is none of these.
pub fn parse_time_secs(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let (number, unit) = split_unit(&text)?;
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    scale(number, factor)
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

fn scale(number: &str, factor: f64) -> Option<u64> {
    if let (Ok(whole), true) = (number.parse::<u64>(), factor >= 1.0) {
        return whole.checked_mul(factor as u64);
    }
    let value = (number.parse::<f64>().ok()? * factor).round();
    (value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn has_the_defaults_that_operators_know() {
        let (config, warnings) = DynamicConfig::from_json(&json!({}));
        assert!(warnings.is_empty());
        assert_eq!((config.ttl, config.loop_wait, config.retry_timeout), (30, 10, 10));
        assert_eq!(config.maximum_lag_on_failover_bytes, 1_048_576);
        assert_eq!(config.primary_start_timeout, 300);
        assert!(config.postgresql.use_slots && !config.postgresql.use_pg_rewind);
    }

    #[test]
    fn reads_what_people_write() {
        let document = json!({
            "ttl": "5s", "loop_wait": 1, "retry_timeout": 2, "maximum_lag_on_failover": "10MB",
            "maximum_lag_on_syncnode": -1, "synchronous_mode": "quorum", "synchronous_node_count": "2",
            "master_start_timeout": "1min", "pause": true, "permanent_slots": {"s": {"type": "physical"}},
            "postgresql": {"use_pg_rewind": "on", "parameters": {"Max_Connections": 200, "hot_standby": true,
                "work_mem": "4MB", "archive_command": null}, "pg_hba": ["host all all all scram-sha-256"]},
            "standby_cluster": {"host": "10.0.0.9", "port": "5432"},
            "mine": {"kept": 1},
        });
        let (config, warnings) = DynamicConfig::from_json(&document);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!((config.ttl, config.primary_start_timeout), (5, 60));
        assert_eq!(config.maximum_lag_on_failover_bytes, 10 << 20);
        assert_eq!(config.maximum_lag_on_syncnode_bytes, None);
        assert_eq!((config.synchronous_mode, config.synchronous_node_count), (SynchronousMode::Quorum, 2));
        let parameters = Vec::from_iter(config.postgresql.parameters);
        let expected = [("hot_standby", "on"), ("max_connections", "200"), ("work_mem", "4MB")];
        assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(config.standby_cluster.unwrap().port, Some(5432));
        assert_eq!(config.document, *document.as_object().unwrap());
    }

    #[test]
    fn nonsense_becomes_the_default_and_is_named() {
        let (config, warnings) = DynamicConfig::from_json(&json!({
            "ttl": "soon", "loop_wait": 0, "synchronous_mode": "sometimes", "postgresql": [],
        }));
        assert_eq!((config.ttl, config.loop_wait), (30, 1));
        insta::assert_snapshot!(warnings.join("\n"), @r#"
ttl: "soon" is not a time in seconds; using 30
loop_wait: 0 is not at least 1 s; using 1
synchronous_mode: "sometimes" is not one of off, on, quorum; using off
postgresql: [] is not a map; using the defaults
"#);
    }

    #[test]
    fn null_deletes_and_maps_merge() {
        let mut document = json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}, "pause": true});
        let patch = json!({"pause": null, "postgresql": {"parameters": {"a": null, "c": 3}}, "new": {"x": null, "y": 1}});
        merge_patch(document.as_object_mut().unwrap(), patch.as_object().unwrap());
        assert_eq!(
            document,
            json!({"ttl": 30, "postgresql": {"parameters": {"b": 2, "c": 3}}, "new": {"y": 1}})
        );
    }

    #[test]
    fn sizes_have_postgresqls_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("16kB", Some(16_384)),
            ("1.5MB", Some(1_572_864)),
            (" 1 GB ", Some(1 << 30)),
            ("10mb", None),
            ("x", None),
            ("", None),
            ("-1", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(parse_size_bytes(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_lease_always_outlives_two_tries(ttl in 0u64..200, loop_wait in 0u64..200, retry in 0u64..200) {
            let (config, _) = DynamicConfig::from_json(
                &json!({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry}),
            );
            prop_assert!(config.loop_wait + 2 * config.retry_timeout <= config.ttl);
            prop_assert!(config.loop_wait >= 1 && config.retry_timeout >= 1 && config.ttl >= 3);
            prop_assert!(config.loop_wait <= loop_wait.max(1) && config.retry_timeout <= retry.max(1));
        }
    }
}
