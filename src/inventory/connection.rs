//! How to reach a host.

use crate::model::Secret;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What the inventory says about the way to a host. What is absent is for the user's ssh_config to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `ansible_host`, or the host's name.
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `~` is expanded.
    pub private_key_file: Option<PathBuf>,
    /// Words that OpenSSH's client would be given besides.
    pub ssh_args: Vec<String>,
    /// Whether a host's key must be known; a changed key is refused in any case.
    pub host_key_checking: bool,
    pub r#become: bool,
    pub become_user: String,
    pub become_password: Option<Secret>,
}

impl Connection {
    /// Reads the connection out of a host's variables; the error says which argument of ssh cannot be split.
    pub(super) fn of(name: &str, vars: &Map<String, Value>) -> Result<Connection, String> {
        let text = |name: &str| vars.get(name).and_then(Value::as_str).map(str::to_owned);
        let flag = |name: &str| vars.get(name).and_then(Value::as_bool).unwrap_or_default();
        let mut ssh_args = Vec::new();
        for name in ["ansible_ssh_common_args", "ansible_ssh_extra_args"] {
            let words =
                text(name).map(|text| shlex::split(&text).ok_or_else(|| name.to_owned())).transpose()?;
            ssh_args.extend(words.unwrap_or_default());
        }
        Ok(Connection {
            host: text("ansible_host").unwrap_or_else(|| name.to_owned()),
            port: vars.get("ansible_port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()),
            user: text("ansible_user"),
            password: text("ansible_password").map(Secret::new),
            private_key_file: text("ansible_ssh_private_key_file").map(|path| expand_home(&path)),
            ssh_args,
            host_key_checking: flag("ansible_host_key_checking"),
            r#become: flag("ansible_become"),
            become_user: text("ansible_become_user").unwrap_or_else(|| "root".to_owned()),
            become_password: text("ansible_become_password").map(Secret::new),
        })
    }
}

fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}
