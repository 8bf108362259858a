//! Which server a standby streams from, changed by reload.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Credentials, Error, Server, Settings, Upstream, connection};

/// What following another server took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It follows that one already.
    Unchanged,
    /// Told to the running standby, which connects by itself.
    Reloaded,
    /// Noted for the next start: nothing is running, or what runs is a primary.
    RestartNeeded,
}

impl Server {
    /// Points the standby at `upstream`, or at none.
    pub async fn follow(&self, upstream: Option<&Upstream>) -> Result<Followed, Error> {
        let settings = self.settings();
        let orders = self.orders()?.following(upstream, &settings);
        if !settings.data_dir.join("standby.signal").exists() {
            return Ok(Followed::RestartNeeded);
        }
        let changed = self.write_orders(orders)?;
        match self.adopt() {
            None => Ok(Followed::RestartNeeded),
            Some(_) if !changed => Ok(Followed::Unchanged),
            Some(_) => self.reload().map(|()| Followed::Reloaded),
        }
    }

    /// Cuts the walreceiver and waits until it is gone: from then on nothing more is received, and
    /// positions can be compared. Errors: it is still there after `limit`.
    pub async fn stop_receiving(&self, limit: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        if self.follow(None).await? == Followed::RestartNeeded {
            return Ok(());
        }
        loop {
            let gone = self
                .with_monitor("looking at the walreceiver", async |session: &connection::Session| {
                    let row =
                        session.client.query_one("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)", &[]);
                    row.await.map(|row| row.get::<_, bool>(0))
                })
                .await;
            match gone {
                Ok(true) => return Ok(()),
                _ if begun.elapsed() < limit => sleep(Duration::from_millis(10)).await,
                Ok(false) => return Err(Error::Timeout { what: "stopping the walreceiver", limit }),
                Err(error) => return Err(error),
            }
        }
    }
}

/// `primary_conninfo` for `upstream`. The password is in the password file.
pub(super) fn conninfo(upstream: &Upstream, settings: &Settings) -> String {
    let mut words = address(upstream, &settings.replication, settings);
    words.push(("connect_timeout", "3".to_owned()));
    words.extend(noticing());
    pairs(&words)
}

/// Where to, as whom, and how encrypted.
pub(super) fn address(
    upstream: &Upstream,
    role: &Credentials,
    settings: &Settings,
) -> Vec<(&'static str, String)> {
    let mut words = vec![
        ("host", upstream.host.clone()),
        ("port", upstream.port.to_string()),
        ("user", role.username.clone()),
        ("passfile", settings.pgpass.to_string_lossy().into_owned()),
        ("application_name", settings.name.to_string()),
    ];
    words.extend(role.ssl.words());
    words
}

/// A dead upstream host is noticed by the receiver itself after `wal_receiver_timeout` alone; these notice it
/// sooner.
pub(super) fn noticing() -> [(&'static str, String); 4] {
    [
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", "10000"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

/// Where a connection string leads; `None` when it has no host or no readable port.
pub(super) fn host_and_port(conninfo: &str) -> Option<(String, u16)> {
    let (mut host, mut port) = (None, Some(5432));
    let mut rest = conninfo.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (mut value, mut quoted, mut end) = (String::new(), false, after.len());
        let mut characters = after.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' => value.extend(characters.next().map(|(_, c)| c)),
                '\'' => quoted = !quoted,
                c if c.is_whitespace() && !quoted => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        match name.trim() {
            "host" => host = Some(value),
            "port" => port = value.parse().ok(),
            _ => {}
        }
        rest = after[end..].trim_start();
    }
    Some((host.filter(|host| !host.is_empty())?, port?))
}

/// A connection string: every value quoted.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    pairs.iter().map(|(name, value)| format!("{name}='{}'", quoted(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_tells_where_it_leads() {
        let found = |text: &str| host_and_port(text);
        assert_eq!(
            found("user=r passfile='/a b' host=10.0.0.2 port=5433"),
            Some(("10.0.0.2".to_owned(), 5433))
        );
        assert_eq!(found("host='pg1'"), Some(("pg1".to_owned(), 5432)));
        for text in ["", "user=x", "host=a port=b"] {
            assert_eq!(found(text), None, "{text}");
        }
        let settings = Settings::of_test();
        let upstream = Upstream { host: r"it's a \ host".to_owned(), port: 1, slot: None };
        assert_eq!(found(&conninfo(&upstream, &settings)), Some((upstream.host, 1)));
    }
}
