//! What a variable is: its kind, its default, the hosts that it matters to. Pure.

use crate::{diagnostic::did_you_mean, model::Scope};
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// One row of the catalogue.
#[derive(Clone, Copy)]
pub struct Variable {
    pub section: Section,
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub reach: Reach,
    /// The groups whose hosts it matters to; empty for all hosts.
    pub groups: &'static [&'static str],
    /// One or two sentences for the reference page.
    pub doc: &'static str,
    /// A value as one would write it.
    pub example: &'static str,
}

/// Whether hosts may differ in a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One value for the whole cluster; set anywhere, it holds everywhere.
    Cluster,
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Connection,
    Cluster,
    Postgres,
    Roles,
    Failover,
    Tls,
    Etcd,
    ZooKeeper,
    HaProxy,
    Address,
    Agent,
    System,
    Own,
}

impl Section {
    pub const ALL: [Section; 13] = [
        Section::Connection,
        Section::Cluster,
        Section::Postgres,
        Section::Roles,
        Section::Failover,
        Section::Tls,
        Section::Etcd,
        Section::ZooKeeper,
        Section::HaProxy,
        Section::Address,
        Section::Agent,
        Section::System,
        Section::Own,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Section::Connection => "How to reach a host",
            Section::Cluster => "The cluster",
            Section::Postgres => "PostgreSQL",
            Section::Roles => "Roles and passwords",
            Section::Failover => "Failover and replication",
            Section::Tls => "TLS and certificates",
            Section::Etcd => "etcd",
            Section::ZooKeeper => "ZooKeeper",
            Section::HaProxy => "HAProxy",
            Section::Address => "The virtual address",
            Section::Agent => "The agent",
            Section::System => "The operating system",
            Section::Own => "Your own variables",
        }
    }
}

/// What a variable is when nobody sets it.
#[derive(Clone, Copy)]
pub enum Default {
    /// Nobody has to set it, and templates see it as `null`.
    Unset,
    /// The inventory must set it.
    Required,
    /// A value, written as YAML.
    Value(&'static str),
    /// Follows from other variables.
    Computed { how: &'static str, from: fn(&Known<'_>) -> Option<Value> },
    /// Follows from what the host says about itself once connected, and from other variables.
    FromHost { how: &'static str, from: fn(&Known<'_>) -> Option<Value> },
    /// Made once and kept in the secrets file beside the inventory.
    Generated,
}

/// What a default may be computed from.
pub struct Known<'a> {
    pub host: &'a str,
    pub vars: &'a Map<String, Value>,
    /// Groups of the host, and of the whole inventory with their hosts in order.
    pub groups: &'a indexmap::IndexMap<String, Vec<crate::model::HostName>>,
    /// Facts of the host; empty before it has been connected to.
    pub facts: &'a Map<String, Value>,
}

impl Known<'_> {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.vars.get(name).and_then(Value::as_str)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.vars.get(name).and_then(Value::as_u64)
    }

    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).and_then(Value::as_str)
    }
}

/// What values a variable takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A name of a cluster: [`Scope`].
    ClusterName,
    Bool,
    /// A whole number between two bounds, both included.
    Integer {
        least: i64,
        most: i64,
    },
    Port,
    /// Whole seconds, at least one.
    Seconds,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// An absolute path on the host.
    Path,
    /// A path on the control machine.
    LocalPath,
    /// An absolute path on the control machine, or an https URL.
    Source,
    /// An IP address or a name.
    Address,
    /// An IP address with the length of its network's prefix.
    AddressWithPrefix,
    /// 64 hexadecimal digits.
    Sha256,
    /// A map of names to numbers, texts or booleans.
    Settings,
    Map,
    ListOfText,
    /// A text that is never shown, of at most that many characters.
    Secret {
        most: usize,
    },
    /// Accepted because Ansible's users have it; nothing reads it.
    Ignored,
}

/// Why a value is not of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub expected: String,
    pub help: Option<String>,
}

impl Mismatch {
    fn new(expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), help: None }
    }
}

/// Whether a value holds a template, whose value is known later.
pub fn is_templated(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{") || text.contains("{%"),
        Value::Array(items) => items.iter().any(is_templated),
        Value::Object(map) => map.values().any(is_templated),
        _ => false,
    }
}

impl Kind {
    /// In words, for the reference page.
    pub fn words(self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::ClusterName => "name".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer { least, most: i64::MAX } => format!("number, at least {least}"),
            Kind::Integer { least, most } => format!("number, {least} to {most}"),
            Kind::Port => "port".to_owned(),
            Kind::Seconds => "seconds".to_owned(),
            Kind::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Kind::Path => "absolute path".to_owned(),
            Kind::LocalPath => "path on this machine".to_owned(),
            Kind::Source => "path on this machine, or URL".to_owned(),
            Kind::Address => "address or name".to_owned(),
            Kind::AddressWithPrefix => "address with prefix".to_owned(),
            Kind::Sha256 => "SHA-256".to_owned(),
            Kind::Settings => "map of settings".to_owned(),
            Kind::Map => "map".to_owned(),
            Kind::ListOfText => "list of texts".to_owned(),
            Kind::Secret { most: usize::MAX } => "secret".to_owned(),
            Kind::Secret { most } => format!("secret, at most {most} characters"),
            Kind::Ignored => "anything; ignored".to_owned(),
        }
    }

    /// The value in the shape that code and templates rely on: a port is a number even where it was written
    /// as text, `yes` is `true`.
    pub fn read(self, value: &Value) -> Result<Value, Mismatch> {
        match self {
            Kind::Address => address(value),
            Kind::Text => match value {
                Value::String(text) if !text.trim().is_empty() => Ok(value.clone()),
                Value::Number(number) => Ok(Value::String(number.to_string())),
                _ => Err(Mismatch::new("expected text")),
            },
            Kind::ClusterName => text_of(value)
                .ok_or_else(|| Mismatch::new("expected text"))?
                .parse::<Scope>()
                .map(|name| Value::String(name.into()))
                .map_err(|_| {
                    Mismatch::new(
                        "expected 1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit",
                    )
                }),
            Kind::Bool => {
                boolean(value).map(Value::Bool).ok_or_else(|| Mismatch::new("expected true or false"))
            }
            Kind::Integer { least, most } => integer(value, least, most),
            Kind::Port => integer(value, 1, 65_535)
                .map_err(|_| Mismatch::new("expected a port, a number from 1 to 65535")),
            Kind::Seconds => integer(value, 1, 86_400).map_err(|_| Mismatch {
                expected: "expected whole seconds, a number from 1 to 86400".to_owned(),
                help: value.is_string().then(|| "write the number without a unit".to_owned()),
            }),
            Kind::Choice(words) => choice(value, words),
            Kind::Path => match value.as_str() {
                Some(path) if path.starts_with('/') => Ok(value.clone()),
                _ => Err(Mismatch::new("expected an absolute path, one that begins with `/`")),
            },
            Kind::LocalPath => match value.as_str() {
                Some(path) if !path.is_empty() => Ok(value.clone()),
                _ => Err(Mismatch::new("expected a path on this machine")),
            },
            Kind::Source => match value.as_str() {
                Some(source) if source.starts_with("http://") => Err(Mismatch {
                    expected: "expected a path or an https URL".to_owned(),
                    help: Some("use https, or download the file and give its path".to_owned()),
                }),
                Some(source) if !source.is_empty() => Ok(value.clone()),
                _ => Err(Mismatch::new("expected a path on this machine or an https URL")),
            },
            Kind::AddressWithPrefix => address_with_prefix(value),
            Kind::Sha256 => match value.as_str() {
                Some(text) if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) => {
                    Ok(Value::String(text.to_lowercase()))
                }
                _ => Err(Mismatch::new("expected 64 hexadecimal digits")),
            },
            Kind::Settings => settings(value),
            Kind::Map => match value {
                Value::Object(_) => Ok(value.clone()),
                Value::Null => Ok(Value::Object(Map::new())),
                _ => Err(Mismatch::new("expected a map")),
            },
            Kind::ListOfText => match value {
                Value::Array(items) if items.iter().all(Value::is_string) => Ok(value.clone()),
                Value::String(_) => Err(Mismatch {
                    expected: "expected a list of texts".to_owned(),
                    help: Some("begin each line of the list with `- `".to_owned()),
                }),
                _ => Err(Mismatch::new("expected a list of texts")),
            },
            Kind::Secret { most } => match text_of(value) {
                Some(text) if text.is_empty() => {
                    Err(Mismatch::new("expected text; leave the variable out to have one generated"))
                }
                Some(text) if text.chars().count() > most => {
                    Err(Mismatch::new(format!("expected at most {most} characters")))
                }
                Some(text) => Ok(Value::String(text)),
                None => Err(Mismatch::new("expected text")),
            },
            Kind::Ignored => Ok(value.clone()),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(word) => match word.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "t" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "f" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Value, least: i64, most: i64) -> Result<Value, Mismatch> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if (least..=most).contains(&number) => Ok(number.into()),
        _ if most == i64::MAX => Err(Mismatch::new(format!("expected a whole number, at least {least}"))),
        _ => Err(Mismatch::new(format!("expected a whole number from {least} to {most}"))),
    }
}

fn choice(value: &Value, words: &[&'static str]) -> Result<Value, Mismatch> {
    // `synchronous_mode: off` is a word in YAML 1.2 and a boolean for those who write `false`.
    let word = match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        _ => text_of(value).unwrap_or_default(),
    };
    if words.contains(&word.as_str()) {
        return Ok(Value::String(word));
    }
    let listed = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    Err(Mismatch {
        expected: format!("expected one of {listed}"),
        help: did_you_mean(&word, words.iter().copied()),
    })
}

fn address(value: &Value) -> Result<Value, Mismatch> {
    let expected = "expected an IP address or a host name";
    let text = value.as_str().ok_or_else(|| Mismatch::new(expected))?;
    let numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let name = !numeric && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if text.parse::<IpAddr>().is_ok() || (name && !text.is_empty()) {
        return Ok(value.clone());
    }
    let help = match text.split_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            Some(format!("write the port as `ansible_port: {port}`"))
        }
        _ if text.contains('@') => Some("write the user as `ansible_user`".to_owned()),
        _ if text.contains('/') => Some("write the address without a prefix length".to_owned()),
        _ => None,
    };
    Err(Mismatch { expected: expected.to_owned(), help })
}

fn address_with_prefix(value: &Value) -> Result<Value, Mismatch> {
    const EXPECTED: &str = "expected an IP address with a prefix length, like `10.0.0.100/24`";
    let text = value.as_str().unwrap_or_default();
    if text.parse::<IpAddr>().is_ok() {
        return Err(Mismatch {
            expected: EXPECTED.to_owned(),
            help: Some(format!("add the length of the network's prefix, for example `{text}/24`")),
        });
    }
    match text.parse::<IpNet>() {
        Ok(network)
            if network.addr() == network.network() && network.prefix_len() < network.max_prefix_len() - 1 =>
        {
            Err(Mismatch {
                expected: EXPECTED.to_owned(),
                help: Some("this is the address of a whole network".to_owned()),
            })
        }
        Ok(_) => Ok(value.clone()),
        Err(_) => Err(Mismatch::new(EXPECTED)),
    }
}

fn settings(value: &Value) -> Result<Value, Mismatch> {
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(map) => match map.iter().find(|(_, value)| value.is_array() || value.is_object()) {
            Some((name, _)) => {
                Err(Mismatch::new(format!("expected a number, text or true/false for `{name}`")))
            }
            None => Ok(value.clone()),
        },
        _ => Err(Mismatch::new("expected a map of settings, each as `name: value`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(Kind::Port.read(&json!("5432")), Ok(json!(5432)));
        assert_eq!(Kind::Bool.read(&json!("yes")), Ok(json!(true)));
        assert_eq!(Kind::Choice(&["off", "on", "quorum"]).read(&json!(false)), Ok(json!("off")));
        assert_eq!(Kind::Secret { most: 8 }.read(&json!(1234)), Ok(json!("1234")));
        assert_eq!(Kind::AddressWithPrefix.read(&json!("10.0.0.1/24")), Ok(json!("10.0.0.1/24")));
        assert_eq!(Kind::Settings.read(&json!(null)), Ok(json!({})));
    }

    #[test]
    fn refuses_what_it_does_not_take() {
        for (kind, value) in [
            (Kind::Port, json!(70_000)),
            (Kind::Port, json!("a")),
            (Kind::Address, json!("10.0.0.300")),
            (Kind::Address, json!("10.0.0.1:2222")),
            (Kind::Address, json!("admin@pg1")),
            (Kind::Bool, json!("maybe")),
            (Kind::Seconds, json!("5s")),
            (Kind::Path, json!("var/lib")),
            (Kind::AddressWithPrefix, json!("10.0.0.1")),
            (Kind::AddressWithPrefix, json!("10.0.0.0/24")),
            (Kind::Sha256, json!("abc")),
            (Kind::Settings, json!({"a": [1]})),
            (Kind::ListOfText, json!("local all all peer")),
            (Kind::Secret { most: 8 }, json!("123456789")),
            (Kind::ClusterName, json!("my cluster")),
            (Kind::Source, json!("http://example.org/etcd.tar.gz")),
        ] {
            assert!(kind.read(&value).is_err(), "{kind:?} takes {value}");
        }
    }
}
