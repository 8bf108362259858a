//! Ports that a service is about to listen on.

use crate::remote::{
    host::{Context, Finding, Host, Manage},
    listeners::{self, Listener},
    protocol::{AWAITED, Failure, Mode},
    systemd,
    wait::{Look, until},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// `ports_free`: nobody but the service itself listens on its ports. Changes nothing. For services that start
/// without a port that another one has, as PostgreSQL does when it gets any of its addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsFree {
    pub ports: Vec<u16>,
    /// The unit that may have them already.
    #[serde(default)]
    pub unit: Option<String>,
    /// Processes that work in this directory may have them too.
    #[serde(default)]
    pub directory: Option<String>,
    /// The address that the service binds; where it is none that can be told, all of them count.
    #[serde(default)]
    pub address: Option<String>,
    /// How long a service that was stopped may take to let go, in seconds.
    #[serde(default = "five_secs")]
    pub timeout: u64,
}

fn five_secs() -> u64 {
    5
}

impl PortsFree {
    fn rival(&self, host: &Host) -> Option<Listener> {
        let own: Option<IpAddr> = self.address.as_deref().and_then(|address| address.parse().ok());
        let own = own.filter(|address| !address.is_unspecified());
        let unit = self.unit.as_deref().map(systemd::full_name);
        let collides = |listener: &Listener| {
            listener.address.is_unspecified() || own.is_none_or(|own| own == listener.address)
        };
        let is_own = |listener: &Listener| {
            let process = listener.process.as_ref();
            process.is_some_and(|process| {
                (unit.is_some() && process.unit == unit)
                    || (self.directory.is_some() && process.directory == self.directory)
            })
        };
        listeners::on(host, &self.ports).into_iter().find(|listener| collides(listener) && !is_own(listener))
    }
}

impl Manage for PortsFree {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let mut finding = Finding::unchanged();
        if context.mode == Mode::Check {
            // A step before this one may stop whoever has it.
            let rival = self.rival(context.host).filter(|_| !context.anticipates_change());
            if let Some(rival) = rival {
                finding.warnings.push(format!("not so now: {rival}"));
                finding.result.insert(AWAITED.to_owned(), rival.to_string().into());
            }
            return Ok(finding);
        }
        let mut last = None;
        let free = until(context, Duration::from_secs(self.timeout), async || {
            last = self.rival(context.host);
            last.as_ref().map_or(Look::Satisfied, |rival| Look::Missing(rival.to_string()))
        });
        match (free.await, last) {
            (Ok(()), _) => Ok(finding),
            (Err(failure), None) => Err(failure),
            (Err(_), Some(rival)) => Err(Failure {
                message: rival.to_string(),
                next_step: Some(rival.advice()),
                ..Failure::default()
            }),
        }
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ports(port: u16) -> PortsFree {
        PortsFree { ports: vec![port], unit: None, directory: None, address: None, timeout: 0 }
    }

    #[test]
    fn only_strangers_count() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        let host = Host::at("/");
        assert_eq!(ports(port).rival(&host).map(|rival| rival.port), Some(port));
        let here = std::env::current_dir().expect("a directory").display().to_string();
        assert_eq!(PortsFree { directory: Some(here), ..ports(port) }.rival(&host), None);
        let elsewhere = |address: &str| PortsFree { address: Some(address.to_owned()), ..ports(port) };
        assert_eq!(elsewhere("127.0.0.2").rival(&host), None);
        assert!(elsewhere("*").rival(&host).is_some() && elsewhere("127.0.0.1").rival(&host).is_some());
        drop(socket);
        assert_eq!(ports(port).rival(&host), None);
    }
}
