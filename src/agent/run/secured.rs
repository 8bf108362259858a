//! What the agent needs for TLS: its own certificate for the REST API, and how it meets etcd and its peers.
//! Files are read at the start and at each reload.

use super::Error;
use crate::{
    agent::config::{Config, Store},
    tls::{self, Client, Server},
};
use std::sync::Arc;

/// Each where the configuration has it.
#[derive(Clone, Debug, Default)]
pub struct Secured {
    pub api: Option<Arc<Server>>,
    pub etcd: Option<Arc<Client>>,
    pub peers: Option<Arc<Client>>,
}

impl Secured {
    pub fn of(config: &Config) -> Result<Secured, Error> {
        let Store::Etcd { tls: etcd, .. } = &config.store;
        let client = |options: &Option<tls::ClientOptions>| {
            options.clone().map(|options| Client::new(options).map(Arc::new)).transpose()
        };
        let api = config.restapi.tls.clone().map(|options| Server::new(options).map(Arc::new));
        Ok(Secured {
            api: api.transpose().map_err(Error::Tls)?,
            etcd: client(etcd).map_err(Error::Tls)?,
            peers: client(&config.peers).map_err(Error::Tls)?,
        })
    }

    /// Reads the certificates again. One that is no good leaves the old one in force.
    pub fn reload(&self) {
        let api = self.api.iter().map(|server| server.reload());
        let clients = self.etcd.iter().chain(&self.peers).map(|client| client.reload());
        for error in api.chain(clients).filter_map(Result::err) {
            tracing::error!("a certificate was not taken up: {error}");
        }
    }
}
