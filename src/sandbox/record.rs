//! What a sandbox is, as its folder remembers it. Written before anything of it is made.

use super::{
    Error, HostSpec, Image, Name, Result,
    layout::{self, Home},
    spec::Subnet,
};
use crate::model::HostName;
use serde::{Deserialize, Serialize};
use std::{fs, net::Ipv4Addr};

/// The lasting facts of one sandbox, and of a snapshot of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub name: Name,
    pub image: Image,
    /// The folder of the image's build in the store.
    pub image_build: String,
    /// The snapshots that the hosts' overlays stand on, the uppermost first.
    pub layers: Vec<Name>,
    pub hosts: Vec<HostSpec>,
    pub subnet: Subnet,
    pub link: Link,
}

/// The two ends of the pair of interfaces between a sandbox and this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub machine: Ipv4Addr,
    pub sandbox: Ipv4Addr,
}

impl Record {
    /// The record in a folder; none if there is none, as when the run that made the folder was killed.
    pub fn read(home: &Home) -> Result<Option<Record>> {
        let path = home.record();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::State { path, reason: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("cannot read", path)(error)),
        }
    }

    pub fn write(&self, home: &Home) -> Result<()> {
        let path = home.record();
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::State { path: path.clone(), reason: error.to_string() })?;
        text.push(b'\n');
        layout::write(&path, &text, 0o644)
    }

    /// The host of this name and its number in the sandbox.
    pub fn host(&self, name: &str) -> Result<(usize, &HostSpec)> {
        let found = self.hosts.iter().enumerate().find(|(_, host)| host.name.as_str() == name);
        found.ok_or_else(|| Error::NoSuchHost {
            sandbox: self.name.clone(),
            host: name.to_owned(),
            known: self.host_names().iter().map(ToString::to_string).collect(),
        })
    }

    pub fn host_names(&self) -> Vec<HostName> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }
}
