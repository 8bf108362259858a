//! [`Server`]: what is remembered between calls. The work is in the files beside it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{Postmaster, Settings, Upstream, connection::Monitor, observe::Memory};

/// How a server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    /// Without an upstream it replays what it has (and what `restore_command` gives), and waits.
    Standby {
        upstream: Option<Upstream>,
    },
}

/// A postmaster that came up.
#[derive(Clone, Debug)]
pub struct Started {
    pub postmaster: Postmaster,
    /// It accepts connections already. Otherwise it is alive and still recovering.
    pub accepting: bool,
    /// Parameters that were left out because this PostgreSQL does not know them.
    pub unknown_parameters: Vec<String>,
}

/// One PostgreSQL server. Share it by reference: every call takes `&self`; calls that change the same
/// thing (two stops, a start and a clone) are for the caller to keep apart.
pub struct Server {
    settings: RwLock<Arc<Settings>>,
    pub(super) monitor: Monitor,
    pub(super) memory: Mutex<Memory>,
    pub(super) child: Mutex<Option<Postmaster>>,
    /// Names of all parameters of the binary in the folder, read once.
    pub(super) catalogue: Mutex<Option<(PathBuf, Arc<super::parameters::Catalogue>)>>,
}

impl Server {
    pub fn new(settings: Settings) -> Server {
        Server {
            settings: RwLock::new(Arc::new(settings)),
            monitor: Monitor::default(),
            memory: Mutex::default(),
            child: Mutex::default(),
            catalogue: Mutex::default(),
        }
    }

    /// What the server is driven by now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the settings without touching anything on disk; see [`Server::reconfigure`].
    pub fn update(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(super) fn remember<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
