//! Asking one member of a ZooKeeper ensemble: `srvr`, the one four-letter word that is allowed by default.

use super::{access::Access, etcd::DcsFacts, topology::DcsHost};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Asks one member; the error says why it has no answer.
pub async fn ask(access: &Access, host: &DcsHost, within: Duration) -> Result<DcsFacts, String> {
    let exchange = async {
        let stream = access.tunnel(&host.name, &host.address, host.client_port).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        stream.write_all(b"srvr").await.map_err(|error| error.to_string())?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map_err(|error| error.to_string())?;
        Ok(judge(&said))
    };
    tokio::time::timeout(within, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

fn judge(said: &str) -> DcsFacts {
    match said.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::trim) {
        Some(mode) => DcsFacts { leader: matches!(mode, "leader" | "standalone"), ailment: None },
        None => {
            let first = said.lines().next().unwrap_or("it closed the connection");
            DcsFacts { leader: false, ailment: Some(first.trim().to_owned()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mode() {
        let said = "Zookeeper version: 3.9.3\nLatency min/avg/max: 0/0.0/0\nMode: follower\nNode count: 5\n";
        assert_eq!(judge(said), DcsFacts { leader: false, ailment: None });
        assert!(judge(&said.replace("follower", "leader")).leader);
        let waiting = judge("This ZooKeeper instance is not currently serving requests\n");
        assert_eq!(
            waiting.ailment.as_deref(),
            Some("This ZooKeeper instance is not currently serving requests")
        );
    }
}
