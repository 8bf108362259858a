//! What applies to this member: its own configuration over that of the cluster.

use super::{Config, Role};
use crate::{
    agent::postgres::{Credentials, Settings},
    contract::DynamicConfig,
};
use std::{path::PathBuf, time::Duration};

/// Parameters that all members must agree on: only the cluster's configuration sets them.
const CLUSTER_WIDE: [&str; 9] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "track_commit_timestamp",
    "wal_level",
    "wal_log_hints",
];

/// Both configurations, merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// What the driver of PostgreSQL is told.
    pub settings: Settings,
    pub use_slots: bool,
    pub use_pg_rewind: bool,
    pub remove_data_directory_on_rewind_failure: bool,
    pub remove_data_directory_on_diverged_timelines: bool,
    /// How long a start or stop of the server may take.
    pub pg_ctl_timeout: Duration,
    /// Parameters of the local file that have no effect, because only the cluster's configuration sets them.
    pub ignored_parameters: Vec<String>,
}

impl Config {
    /// Merges this member's configuration with the cluster's. The local value wins, except for what must
    /// be the same everywhere.
    pub fn effective(&self, dynamic: &DynamicConfig) -> Effective {
        let local = &self.postgresql;
        let shared = &dynamic.postgresql;
        let mut parameters = shared.parameters.clone();
        let mut ignored_parameters = Vec::new();
        for (name, value) in &local.parameters {
            if CLUSTER_WIDE.contains(&name.as_str()) {
                ignored_parameters.push(name.clone());
            } else {
                parameters.insert(name.clone(), value.clone());
            }
        }
        let mut recovery = shared.recovery_conf.clone();
        recovery.extend(local.recovery_conf.clone());

        let bootstrap_hba =
            || self.bootstrap.as_ref().map(|bootstrap| bootstrap.pg_hba.clone()).unwrap_or_default();
        let hba = local.pg_hba.clone().or_else(|| shared.pg_hba.clone());
        let settings = Settings {
            bin_dir: local.bin_dir.clone(),
            data_dir: local.data_dir.clone(),
            config_dir: local.config_dir.clone(),
            listen_addresses: local.listen.host.clone(),
            port: local.listen.port,
            socket_dir: self.socket_dir(),
            name: self.name.clone(),
            scope: self.scope.clone(),
            superuser: credentials(&local.superuser),
            replication: credentials(&local.replication),
            rewind: local.rewind.as_ref().map(credentials),
            pgpass: local.pgpass.clone().unwrap_or_else(|| self.beside_data("pgpass")),
            log_file: self.log_file(),
            initdb: self.bootstrap.as_ref().map(|bootstrap| bootstrap.initdb.clone()).unwrap_or_default(),
            hba: hba.unwrap_or_else(bootstrap_hba),
            ident: local.pg_ident.clone().or_else(|| shared.pg_ident.clone()).unwrap_or_default(),
            parameters,
            recovery,
            basebackup: local.basebackup.clone(),
            custom_conf: local.custom_conf.clone(),
            query_timeout: Duration::from_secs(2),
        };
        Effective {
            settings,
            use_slots: shared.use_slots,
            use_pg_rewind: local.use_pg_rewind.unwrap_or(shared.use_pg_rewind),
            remove_data_directory_on_rewind_failure: local
                .remove_data_directory_on_rewind_failure
                .unwrap_or(shared.remove_data_directory_on_rewind_failure),
            remove_data_directory_on_diverged_timelines: local
                .remove_data_directory_on_diverged_timelines
                .unwrap_or(shared.remove_data_directory_on_diverged_timelines),
            pg_ctl_timeout: Duration::from_secs(local.pg_ctl_timeout.unwrap_or(shared.pg_ctl_timeout)),
            ignored_parameters,
        }
    }

    /// The folder of the Unix socket: the distribution's where there is one, else the data directory.
    fn socket_dir(&self) -> Option<PathBuf> {
        if self.postgresql.use_unix_socket == Some(false) {
            return None;
        }
        let usual = PathBuf::from("/var/run/postgresql");
        Some(if usual.is_dir() { usual } else { PathBuf::from(".") })
    }

    /// Where the postmaster writes before its own logging works: with the distribution's logs, which are
    /// rotated, where there are some.
    fn log_file(&self) -> PathBuf {
        let usual = PathBuf::from("/var/log/postgresql");
        match usual.is_dir() {
            true => usual.join(format!("{}-{}.log", self.scope, self.name)),
            false => self.beside_data("log"),
        }
    }

    /// `DATA_DIR.extension`: inside of the data directory it would be in the way of a copy.
    fn beside_data(&self, extension: &str) -> PathBuf {
        let mut name = self.postgresql.data_dir.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(extension);
        self.postgresql.data_dir.with_file_name(name)
    }
}

fn credentials(role: &Role) -> Credentials {
    Credentials { username: role.username.clone(), password: role.password.clone(), ssl: role.ssl.clone() }
}
