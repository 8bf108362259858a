//! From merged settings to a [`Config`]: what is required, what is the default, what makes no sense.

use super::{
    Address, Bootstrap, Config, Log, Postgresql, RestApi, Role, Store, Watchdog, WatchdogMode,
    source::Sources,
};
use crate::{
    agent::dcs::Endpoint,
    contract::{DynamicConfig, Tags, parameter_text, parse_time_secs},
    diagnostic::{Diagnostics, did_you_mean},
    model::Secret,
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

const POSTGRES_PORT: u16 = 5432;
const API_PORT: u16 = 8008;
const ETCD_PORT: u16 = 2379;

/// The configuration; `None` when something that is required is missing or wrong, which is then found.
pub fn config(sources: &Sources, findings: &mut Diagnostics) -> Option<Config> {
    let mut reader = Reader { sources, findings };
    let scope = reader.required_name("scope");
    let name = match sources.get("name").is_none() && sources.get("postgresql.name").is_some() {
        true => reader.required_name("postgresql.name"),
        false => reader.required_name("name"),
    };
    let log = reader.log();
    let store = reader.store();
    let bootstrap = reader.bootstrap();
    let postgresql = reader.postgresql();
    let restapi = reader.restapi();
    let peers = reader.peers();
    let watchdog = reader.watchdog();
    let tags = Tags(reader.map("tags"));
    Some(Config {
        scope: scope?,
        name: name?,
        namespace: reader.text("namespace").unwrap_or_else(|| "/service".to_owned()),
        log,
        store: store?,
        bootstrap,
        postgresql: postgresql?,
        restapi: restapi?,
        peers,
        watchdog,
        tags,
        document: super::Merged(sources.merged().clone()),
    })
}

pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    findings: &'a mut Diagnostics,
}

impl Reader<'_> {
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.sources.get(path).and_then(parameter_text).filter(|text| !text.is_empty())
    }

    pub(super) fn flag(&self, path: &str) -> Option<bool> {
        let text = self.text(path)?.to_ascii_lowercase();
        Some(["true", "on", "yes", "1"].contains(&text.as_str()))
    }

    fn map(&self, path: &str) -> Map<String, Value> {
        self.sources.get(path).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        self.text(path).map(PathBuf::from)
    }

    /// Lines of a list, or of a text.
    fn lines(&self, path: &str) -> Option<Vec<String>> {
        match self.sources.get(path)? {
            Value::Array(lines) => Some(lines.iter().filter_map(parameter_text).collect()),
            Value::String(text) => Some(
                text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect(),
            ),
            _ => None,
        }
    }

    fn parameters(&mut self, path: &str) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::new();
        for (name, value) in self.map(path) {
            match parameter_text(&value) {
                Some(text) => drop(parameters.insert(name.to_ascii_lowercase(), text)),
                None if value.is_null() => {}
                None => {
                    let message = format!("`{path}.{name}` is no single value");
                    self.wrong(&format!("{path}.{name}"), message, "expected text, a number or a boolean");
                }
            }
        }
        parameters
    }

    pub(super) fn wrong(&mut self, path: &str, message: impl Into<String>, expected: &str) {
        self.findings.push(self.sources.error(path, message).label(expected));
    }

    fn required_name<T: FromStr<Err = crate::model::InvalidName>>(&mut self, path: &str) -> Option<T> {
        let Some(text) = self.text(path) else {
            let what = if path == "scope" { "the cluster's name" } else { "this member's name" };
            self.findings.push(
                self.sources
                    .missing(format!("`{path}` is missing"))
                    .help(format!("add `{path}:` with {what}")),
            );
            return None;
        };
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.wrong(path, format!("`{path}`: {error}"), "not a valid name");
                None
            }
        }
    }

    /// One of several words; the first is the default.
    pub(super) fn word(&mut self, path: &str, words: &[&str]) -> usize {
        let Some(text) = self.text(path) else { return 0 };
        let found = words.iter().position(|word| word.eq_ignore_ascii_case(&text));
        if found.is_none() {
            let message = format!("`{path}` is `{text}`");
            let expected = format!("expected {}", words.join(", "));
            let hint = did_you_mean(&text.to_ascii_lowercase(), words.iter().copied());
            self.findings.push(self.sources.error(path, message).label(expected).helps(hint));
        }
        found.unwrap_or(0)
    }

    fn address(&mut self, path: &str, port: u16) -> Option<Address> {
        let text = self.text(path)?;
        let address = Address::parse(&text, port);
        if address.is_none() {
            self.wrong(path, format!("`{text}` is not an address"), "expected HOST:PORT");
        }
        address
    }

    /// Where something listens and how others reach it.
    fn addresses(&mut self, section: &str, port: u16) -> Option<(Address, Address)> {
        let (listen_path, connect_path) = (format!("{section}.listen"), format!("{section}.connect_address"));
        let given = self.text(&listen_path).is_some();
        let listen = self.address(&listen_path, port);
        let connect = self.address(&connect_path, listen.as_ref().map_or(port, |listen| listen.port));
        let listen = match (listen, given) {
            (None, true) => return None,
            (None, false) => {
                connect.as_ref().map(|connect| Address { host: "*".to_owned(), ..connect.clone() })
            }
            (listen, _) => listen,
        };
        let Some(listen) = listen else {
            let missing = self.sources.missing(format!("`{connect_path}` is missing"));
            self.findings.push(
                missing.help(format!("add `{connect_path}: HOST:{port}`, how the others reach this node")),
            );
            return None;
        };
        match connect {
            Some(connect) if connect.is_wildcard() => {
                let message = format!("`{connect_path}` does not name one address");
                self.wrong(
                    &connect_path,
                    message,
                    "expected the address at which the others reach this node",
                );
                None
            }
            Some(connect) => Some((listen, connect)),
            None if self.text(&connect_path).is_some() => None,
            None if listen.is_wildcard() => {
                let message =
                    format!("`{connect_path}` is missing, and `{listen_path}` names no single address");
                let help =
                    format!("add `{connect_path}: HOST:{}`, how the others reach this node", listen.port);
                self.findings.push(self.sources.error(&listen_path, message).help(help));
                None
            }
            None => Some((listen.clone(), listen)),
        }
    }

    fn log(&mut self) -> Log {
        let json = self.word("log.type", &["plain", "json"]) == 1;
        let levels = ["INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL", "NOTSET"];
        let level = match levels[self.word("log.level", &levels)] {
            "CRITICAL" => "ERROR",
            "NOTSET" => "DEBUG",
            level => level,
        };
        Log { json, level: level.to_owned() }
    }

    fn store(&mut self) -> Option<Store> {
        let section = if self.sources.get("etcd3").is_some() { "etcd3" } else { "etcd" };
        if self.sources.get(section).is_none() {
            let other = ["zookeeper", "consul", "exhibitor", "kubernetes", "raft"];
            // Those are refused by the schema already.
            if !other.iter().any(|section| self.sources.get(section).is_some()) {
                let missing = self.sources.missing("no store is configured");
                self.findings.push(missing.help("add `etcd3:` with `hosts: [HOST:2379, ...]`"));
            }
            return None;
        }
        let mut encrypted = self.word(&format!("{section}.protocol"), &["http", "https"]) == 1;
        let (path, written) = self.endpoints_as_written(section);
        let port =
            self.text(&format!("{section}.port")).and_then(|port| port.parse().ok()).unwrap_or(ETCD_PORT);
        let mut endpoints = Vec::new();
        for text in written {
            let bare = text.trim().trim_end_matches('/');
            encrypted |= bare.starts_with("https://");
            let bare = bare.trim_start_matches("http://").trim_start_matches("https://");
            match Address::parse(bare, port) {
                Some(address) => endpoints.push(Endpoint { host: address.host, port: address.port }),
                None => self.wrong(&path, format!("`{text}` is not an address"), "expected HOST:PORT"),
            }
        }
        if endpoints.is_empty() {
            if path.is_empty() {
                let message = format!("`{section}` names no endpoint");
                let diagnostic =
                    self.sources.error(section, message).label("expected `hosts`, `host` or `url`");
                self.findings.push(diagnostic);
            }
            return None;
        }
        let username = self.text(&format!("{section}.username"));
        let password = self.text(&format!("{section}.password")).unwrap_or_default();
        let tls = if encrypted { Some(self.etcd_tls(section)?) } else { None };
        let login = username.map(|username| (username, Secret::new(password)));
        Some(Store::Etcd { endpoints, login, tls })
    }

    fn endpoints_as_written(&self, section: &str) -> (String, Vec<String>) {
        for key in ["hosts", "host", "url"] {
            let path = format!("{section}.{key}");
            match self.sources.get(&path) {
                Some(Value::Array(hosts)) => {
                    return (path, hosts.iter().filter_map(parameter_text).collect());
                }
                Some(Value::String(hosts)) => {
                    let hosts =
                        hosts.split(',').map(|host| host.trim().trim_matches(['"', '\'', '[', ']', '-']));
                    let hosts = hosts.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
                    return (path, hosts.collect());
                }
                _ => {}
            }
        }
        (String::new(), Vec::new())
    }

    fn bootstrap(&mut self) -> Option<Bootstrap> {
        let given = self.sources.get("bootstrap")?;
        if !given.is_object() {
            return None;
        }
        let dcs = self.map("bootstrap.dcs");
        let (_, warnings) = DynamicConfig::from_json(&Value::Object(dcs.clone()));
        for warning in warnings {
            let diagnostic = self.sources.error("bootstrap.dcs", format!("`bootstrap.dcs`: {warning}"));
            let severity = crate::diagnostic::Severity::Warning;
            self.findings.push(crate::diagnostic::Diagnostic { severity, ..diagnostic });
        }
        Some(Bootstrap {
            dcs,
            initdb: self.options("bootstrap.initdb"),
            pg_hba: self.lines("bootstrap.pg_hba").unwrap_or_default(),
        })
    }

    /// Options of a program: a list of words and of maps with one entry, or a map.
    fn options(&mut self, path: &str) -> Vec<(String, Option<String>)> {
        let mut options = Vec::new();
        let mut odd = false;
        let of_map = |map: &Map<String, Value>, options: &mut Vec<(String, Option<String>)>| {
            for (name, value) in map {
                let value = match value {
                    Value::Null | Value::Bool(true) => None,
                    value => parameter_text(value),
                };
                options.push((name.trim_start_matches('-').to_owned(), value));
            }
        };
        match self.sources.get(path) {
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(word) => {
                            let word = word.trim_start_matches('-');
                            let (name, value) = match word.split_once('=') {
                                Some((name, value)) => (name, Some(value.to_owned())),
                                None => (word, None),
                            };
                            options.push((name.to_owned(), value));
                        }
                        Value::Object(map) => of_map(map, &mut options),
                        _ => odd = true,
                    }
                }
            }
            Some(Value::Object(map)) => of_map(map, &mut options),
            Some(_) => odd = true,
            None => {}
        }
        if odd {
            let message = format!("`{path}` holds something that is no option");
            self.wrong(path, message, "expected words and `name: value`");
        }
        options
    }

    fn role(&mut self, which: &str) -> Option<Role> {
        let path = format!("postgresql.authentication.{which}");
        let username = self.text(&format!("{path}.username"))?;
        let password = self.text(&format!("{path}.password")).map(Secret::new);
        Some(Role { username, password, ssl: self.ssl(&path) })
    }

    fn postgresql(&mut self) -> Option<Postgresql> {
        if self.sources.get("postgresql").is_none() {
            self.findings.push(self.sources.missing("the section `postgresql` is missing"));
            return None;
        }
        let addresses = self.addresses("postgresql", POSTGRES_PORT);
        let data_dir = self.path("postgresql.data_dir");
        match &data_dir {
            None => {
                let missing = self.sources.missing("`postgresql.data_dir` is missing");
                self.findings.push(missing.help("add the directory that holds, or shall hold, the data"));
            }
            Some(directory) if !directory.is_absolute() => {
                let message = format!("`postgresql.data_dir` is `{}`", directory.display());
                self.wrong("postgresql.data_dir", message, "expected an absolute path");
            }
            Some(_) => {}
        }
        let replication = self.role("replication");
        if replication.is_none() {
            let missing = self.sources.missing("`postgresql.authentication.replication.username` is missing");
            self.findings.push(missing.help("replicas connect to the primary as this role"));
        }
        let superuser = self.role("superuser");
        let postgres = Role {
            username: "postgres".to_owned(),
            password: self.text("postgresql.authentication.superuser.password").map(Secret::new),
            ssl: self.ssl("postgresql.authentication.superuser"),
        };
        let timeout = self.sources.get("postgresql.pg_ctl_timeout").and_then(parse_time_secs);
        let parameters = self.parameters("postgresql.parameters");
        let recovery_conf = self.parameters("postgresql.recovery_conf");
        let basebackup = self.options("postgresql.basebackup");
        let proxy_address = self.address("postgresql.proxy_address", POSTGRES_PORT);
        let (listen, connect_address) = addresses?;
        Some(Postgresql {
            listen,
            connect_address,
            proxy_address,
            data_dir: data_dir?,
            config_dir: self.path("postgresql.config_dir"),
            bin_dir: self.path("postgresql.bin_dir").unwrap_or_default(),
            pgpass: self.path("postgresql.pgpass"),
            use_unix_socket: self.flag("postgresql.use_unix_socket"),
            superuser: superuser.unwrap_or(postgres),
            replication: replication?,
            rewind: self.role("rewind"),
            parameters,
            recovery_conf,
            pg_hba: self.lines("postgresql.pg_hba"),
            pg_ident: self.lines("postgresql.pg_ident"),
            basebackup,
            custom_conf: self.path("postgresql.custom_conf"),
            use_pg_rewind: self.flag("postgresql.use_pg_rewind"),
            remove_data_directory_on_rewind_failure: self
                .flag("postgresql.remove_data_directory_on_rewind_failure"),
            remove_data_directory_on_diverged_timelines: self
                .flag("postgresql.remove_data_directory_on_diverged_timelines"),
            pg_ctl_timeout: timeout,
        })
    }

    fn restapi(&mut self) -> Option<RestApi> {
        let (listen, connect_address) = self.addresses("restapi", API_PORT)?;
        let username = self.text("restapi.authentication.username");
        let password = self.text("restapi.authentication.password");
        let authentication = match (username, password) {
            (Some(username), Some(password)) => Some((username, Secret::new(password))),
            (None, None) => None,
            _ => {
                // Half of it would leave unsafe requests open to everybody.
                let message = "`restapi.authentication` needs both a username and a password";
                self.wrong("restapi.authentication", message, "expected `username` and `password`");
                None
            }
        };
        let tls = self.api_tls()?;
        let mut extra_headers = self.map("restapi.http_extra_headers");
        if tls.is_some() {
            extra_headers.extend(self.map("restapi.https_extra_headers"));
        }
        let extra_headers =
            extra_headers.iter().filter_map(|(name, value)| Some((name.clone(), parameter_text(value)?)));
        let extra_headers = extra_headers.collect();
        Some(RestApi { listen, connect_address, authentication, extra_headers, tls })
    }

    fn watchdog(&mut self) -> Watchdog {
        let words = ["automatic", "off", "required", "false"];
        let mode = match words[self.word("watchdog.mode", &words)] {
            "required" => WatchdogMode::Required,
            "automatic" => WatchdogMode::Automatic,
            _ => WatchdogMode::Off,
        };
        Watchdog {
            mode,
            device: self.path("watchdog.device").unwrap_or_else(|| "/dev/watchdog".into()),
            safety_margin: self
                .text("watchdog.safety_margin")
                .and_then(|margin| margin.parse().ok())
                .unwrap_or(5),
        }
    }
}
