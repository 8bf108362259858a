//! What the driver is told: where the server lives, who it serves, which parameters it runs with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Ssl;
use crate::model::{MemberName, Scope, Secret};

/// A role of the database. Without a password PostgreSQL has to let it in by other means (`peer`, `cert`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: Option<Secret>,
    /// How connections of this role are encrypted.
    pub ssl: Ssl,
}

/// A server to stream from, to copy, or to rewind to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
    /// The physical slot to stream through. It has to exist there already.
    pub slot: Option<String>,
}

/// Everything that the driver needs to know about its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder of `postgres`, `initdb`, `pg_basebackup`, `pg_rewind`; empty: they are looked up in `PATH`.
    pub bin_dir: PathBuf,
    pub data_dir: PathBuf,
    /// Folder of `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf` where it is not the data directory.
    pub config_dir: Option<PathBuf>,
    /// Addresses to listen on, separated by commas, as `listen_addresses` has them.
    pub listen_addresses: String,
    pub port: u16,
    /// Folder of the Unix socket, unless `parameters` has `unix_socket_directories`. `None`: TCP alone.
    pub socket_dir: Option<PathBuf>,
    /// This member; the `application_name` of its walreceiver.
    pub name: MemberName,
    /// The cluster; becomes `cluster_name`.
    pub scope: Scope,
    pub superuser: Credentials,
    pub replication: Credentials,
    /// The role of `pg_rewind`; the superuser where there is none.
    pub rewind: Option<Credentials>,
    /// Password file for libpq, written with mode 0600, so that no password is in a connection string.
    pub pgpass: PathBuf,
    /// Where the postmaster's standard output and error are appended to.
    pub log_file: PathBuf,
    /// Options of `initdb` without their dashes, such as `("encoding", Some("UTF8"))`.
    pub initdb: Vec<(String, Option<String>)>,
    /// Lines of `pg_hba.conf`; empty: the file is left as it is.
    pub hba: Vec<String>,
    /// Lines of `pg_ident.conf`; empty: the file is left as it is.
    pub ident: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    /// Recovery parameters of a standby: `restore_command`, `recovery_min_apply_delay`, ...
    pub recovery: BTreeMap<String, String>,
    /// Options of `pg_basebackup` without their dashes.
    pub basebackup: Vec<(String, Option<String>)>,
    /// A file to include instead of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// Longest wait for an answer of the local server before it counts as unresponsive.
    pub query_timeout: Duration,
}

impl Settings {
    /// Folder that holds the configuration files.
    pub fn config_dir(&self) -> &Path {
        self.config_dir.as_deref().unwrap_or(&self.data_dir)
    }

    /// The program `name` of this PostgreSQL.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Who `pg_rewind` connects as.
    pub fn rewind_role(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }

    /// Folder of the Unix socket to connect through; `None`: there is none.
    pub fn socket(&self) -> Option<PathBuf> {
        let folder = match self.parameters.get("unix_socket_directories") {
            Some(list) => {
                let first = list.split(',').next().unwrap_or_default().trim().trim_matches('"');
                if first.is_empty() {
                    return None;
                }
                PathBuf::from(first)
            }
            None => self.socket_dir.clone()?,
        };
        // An abstract socket has no folder; a relative one is relative to the data directory.
        if folder.as_os_str().as_encoded_bytes().starts_with(b"@") {
            None
        } else {
            Some(self.data_dir.join(folder))
        }
    }

    /// Address to reach the server at over TCP from this host.
    pub fn local_address(&self) -> &str {
        let first = self.listen_addresses.split(',').map(str::trim).find(|address| !address.is_empty());
        match first {
            None | Some("*" | "0.0.0.0" | "localhost") => "127.0.0.1",
            Some("::") => "::1",
            Some(address) => {
                if self.listen_addresses.split(',').any(|address| address.trim() == "127.0.0.1") {
                    "127.0.0.1"
                } else {
                    address
                }
            }
        }
    }
}

#[cfg(test)]
impl Settings {
    /// Settings of a member that does not exist, for tests of pure code.
    pub(super) fn of_test() -> Settings {
        let role = |username: &str| Credentials {
            username: username.to_owned(),
            password: Some(Secret::new("secret")),
            ssl: Ssl::default(),
        };
        Settings {
            bin_dir: PathBuf::new(),
            data_dir: "/data".into(),
            config_dir: None,
            listen_addresses: "10.0.0.1".to_owned(),
            port: 5432,
            socket_dir: Some("/run/postgresql".into()),
            name: "pg1".parse().expect("a name"),
            scope: "demo".parse().expect("a name"),
            superuser: role("postgres"),
            replication: role("replicator"),
            rewind: Some(role("rewinder")),
            pgpass: "/run/pgpass".into(),
            log_file: "/log".into(),
            initdb: Vec::new(),
            hba: Vec::new(),
            ident: Vec::new(),
            parameters: BTreeMap::new(),
            recovery: BTreeMap::new(),
            basebackup: Vec::new(),
            custom_conf: None,
            query_timeout: Duration::from_secs(2),
        }
    }
}
