//! The agent's configuration: Patroni's YAML, `PATRONI_*` variables, and how they merge with the dynamic
//! configuration of the cluster. Owns what the words mean; never talks to the store or to PostgreSQL.

mod address;
mod cache;
mod effective;
mod environment;
mod read;
mod reload;
mod schema;
mod source;
#[cfg(test)]
mod tests;
mod tls;

pub use address::Address;
pub use cache::Cache;
pub use effective::Effective;
pub use reload::Change;

use super::{
    dcs::{Endpoint, EtcdOptions, Login},
    postgres::Ssl,
};
use crate::{
    contract::{DynamicConfig, Tags},
    diagnostic::{Diagnostic, Diagnostics},
    model::{MemberName, Scope, Secret},
    tls::{Client, ClientOptions, ServerOptions},
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::Path, path::PathBuf, sync::Arc, time::Duration};

/// What one agent was told: its file or directory of files, and its environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub scope: Scope,
    pub name: MemberName,
    /// Folder of all clusters in the store; `/service` unless configured.
    pub namespace: String,
    pub log: Log,
    pub store: Store,
    pub bootstrap: Option<Bootstrap>,
    pub postgresql: Postgresql,
    pub restapi: RestApi,
    /// How the REST APIs of the other members are spoken to where they speak TLS.
    pub peers: Option<ClientOptions>,
    pub watchdog: Watchdog,
    pub tags: Tags,
    /// The merged settings, to tell what a reload changed.
    document: Merged,
}

/// All settings as they were read. Has passwords in it, so it does not print.
#[derive(Clone, PartialEq)]
struct Merged(Map<String, Value>);

impl std::fmt::Debug for Merged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

/// How the agent's own log looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub json: bool,
    /// `ERROR`, `WARNING`, `INFO`, `DEBUG`.
    pub level: String,
}

/// The store that the cluster agrees through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    Etcd { endpoints: Vec<Endpoint>, login: Option<(String, Secret)>, tls: Option<ClientOptions> },
}

/// How a new cluster is made. Without this section the node waits for others to make it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bootstrap {
    /// The dynamic configuration that the first leader writes to the store.
    pub dcs: Map<String, Value>,
    /// Options of `initdb` without their dashes.
    pub initdb: Vec<(String, Option<String>)>,
    /// Lines of `pg_hba.conf` of a new cluster, where `postgresql.pg_hba` gives none.
    pub pg_hba: Vec<String>,
}

/// The local PostgreSQL.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgresql {
    /// Where it listens: addresses separated by commas, and the port.
    pub listen: Address,
    /// How the others reach it.
    pub connect_address: Address,
    pub proxy_address: Option<Address>,
    pub data_dir: PathBuf,
    pub config_dir: Option<PathBuf>,
    /// Empty: the programs are looked up in `PATH`.
    pub bin_dir: PathBuf,
    pub pgpass: Option<PathBuf>,
    /// Connect through the Unix socket; `None`: where there is one.
    pub use_unix_socket: Option<bool>,
    pub superuser: Role,
    pub replication: Role,
    pub rewind: Option<Role>,
    pub parameters: BTreeMap<String, String>,
    pub recovery_conf: BTreeMap<String, String>,
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub basebackup: Vec<(String, Option<String>)>,
    pub custom_conf: Option<PathBuf>,
    // What the local file may say of settings that the cluster has too; it wins.
    pub use_pg_rewind: Option<bool>,
    pub remove_data_directory_on_rewind_failure: Option<bool>,
    pub remove_data_directory_on_diverged_timelines: Option<bool>,
    pub pg_ctl_timeout: Option<u64>,
}

/// A database role and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub username: String,
    pub password: Option<Secret>,
    pub ssl: Ssl,
}

/// The REST API of this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApi {
    pub listen: Address,
    pub connect_address: Address,
    /// Name and password that unsafe requests need.
    pub authentication: Option<(String, Secret)>,
    /// Headers that every answer carries.
    pub extra_headers: BTreeMap<String, String>,
    pub tls: Option<ServerOptions>,
}

/// The watchdog device of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    pub device: PathBuf,
    /// Seconds before the end of the lease at which it fires; -1: half of the ttl.
    pub safety_margin: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogMode {
    Off,
    /// Used where there is one.
    Automatic,
    /// Without one this node does not become the leader.
    Required,
}

impl Config {
    /// Reads a file, or the YAML files of a directory, and the environment. Returns what is odd but does
    /// no harm beside the configuration. Errors: everything that is wrong, with its place.
    pub fn load(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Vec<Diagnostic>), Diagnostics> {
        let mut findings = Diagnostics::default();
        let sources = source::Sources::read(path, environment, &mut findings);
        // What could not be read makes everything look missing: say the first thing first.
        let config = match findings.has_errors() && sources.is_empty() {
            true => None,
            false => read::config(&sources, &mut findings),
        };
        let warnings = findings.into_warnings()?;
        config.map(|config| (config, warnings)).ok_or_else(Diagnostics::default)
    }

    /// `postgres://HOST:PORT/postgres`, as the member key says it.
    pub fn conn_url(&self) -> String {
        format!("postgres://{}/postgres", self.postgresql.connect_address)
    }

    /// `http://HOST:PORT/patroni`, as the member key says it; `https` where it is.
    pub fn api_url(&self) -> String {
        let scheme = if self.restapi.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.restapi.connect_address)
    }

    /// How to open the store, with `tls` where it is encrypted, at the ttl of the dynamic configuration.
    pub fn etcd_options(&self, dynamic: &DynamicConfig, tls: Option<Arc<Client>>) -> EtcdOptions {
        let Store::Etcd { endpoints, login, .. } = &self.store;
        EtcdOptions {
            endpoints: endpoints.clone(),
            login: login
                .as_ref()
                .map(|(username, password)| Login { username: username.clone(), password: password.clone() }),
            tls,
            request_timeout: EtcdOptions::REQUEST_TIMEOUT,
            namespace: self.namespace.clone(),
            scope: self.scope.clone(),
            name: self.name.clone(),
            ttl: Duration::from_secs(dynamic.ttl),
        }
    }
}
