//! What HAProxy sees behind it.

use super::await_condition;
use crate::remote::{
    host::{Context, Finding, Manage},
    http::{Call, Tls},
    protocol::Failure,
    wait::Look,
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// `haproxy_backends`: waits until each named proxy has the expected number of servers up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaproxyBackends {
    /// The statistics socket.
    #[serde(default = "socket")]
    pub socket: String,
    /// The statistics page (`http://HOST:PORT/`, its CSV is read) instead of the socket.
    #[serde(default)]
    pub url: Option<String>,
    /// Files with which to speak to it where it speaks TLS.
    #[serde(default)]
    pub tls: Tls,
    /// Proxy name to the number of servers that must be up, exactly.
    #[serde(alias = "frontends")]
    pub backends: IndexMap<String, u32>,
    /// How long to wait, in seconds.
    #[serde(default = "super::five_minutes_secs")]
    pub timeout: u64,
}

fn socket() -> String {
    "/run/haproxy/admin.sock".to_owned()
}

const ATTEMPT: Duration = Duration::from_secs(3);

/// A server of a proxy, as the statistics have it.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "# pxname")]
    proxy: String,
    #[serde(rename = "svname")]
    server: String,
    status: String,
    #[serde(default)]
    last_chk: String,
}

impl HaproxyBackends {
    async fn condition(&self, context: &Context<'_>) -> Look {
        let statistics = match &self.url {
            Some(url) => from_page(url, &self.tls).await,
            None => from_socket(&context.host.path(&self.socket)).await,
        };
        match statistics.and_then(|statistics| self.judge(&statistics)) {
            Ok(()) => Look::Satisfied,
            Err(missing) => Look::Missing(format!("HAProxy: {missing}")),
        }
    }

    fn judge(&self, statistics: &str) -> Result<(), String> {
        let mut reader = csv::Reader::from_reader(statistics.as_bytes());
        let rows: Result<Vec<Row>, _> = reader.deserialize().collect();
        let rows = rows.map_err(|error| format!("the statistics can't be read: {error}"))?;
        for (proxy, expected) in &self.backends {
            let servers: Vec<_> = rows
                .iter()
                .filter(|row| row.proxy == *proxy && row.server != "FRONTEND" && row.server != "BACKEND")
                .collect();
            if servers.is_empty() {
                return Err(format!("there is no proxy `{proxy}` with servers"));
            }
            let up =
                servers.iter().filter(|row| row.status.starts_with("UP") || row.status == "no check").count();
            if up != *expected as usize {
                let states: Vec<_> = servers
                    .iter()
                    .map(|row| {
                        format!("{} {} {}", row.server, row.status, row.last_chk).trim_end().to_owned()
                    })
                    .collect();
                return Err(format!(
                    "`{proxy}` has {up} servers up, expected {expected} ({})",
                    states.join(", ")
                ));
            }
        }
        Ok(())
    }
}

async fn from_page(url: &str, tls: &Tls) -> Result<String, String> {
    let response = Call::get(&format!("{url};csv"))
        .tls(tls)
        .limit(ATTEMPT)
        .run()
        .await
        .map_err(|error| error.to_string())?;
    match response.status {
        200 => Ok(response.text()),
        status => Err(format!("{url} answered with status {status}")),
    }
}

async fn from_socket(path: &std::path::Path) -> Result<String, String> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"show stat\n").await?;
        let mut statistics = String::new();
        stream.read_to_string(&mut statistics).await?;
        Ok(statistics)
    };
    match timeout(ATTEMPT, exchange).await {
        Ok(outcome) => outcome.map_err(|error: std::io::Error| format!("{}: {error}", path.display())),
        Err(_) => Err(format!("{}: no answer within {} s", path.display(), ATTEMPT.as_secs())),
    }
}

impl Manage for HaproxyBackends {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        let unit = Some("haproxy.service");
        await_condition(context, limit, unit, async || self.condition(context).await).await
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_that_are_up_are_counted_per_proxy() {
        let statistics = "# pxname,svname,qcur,status,last_chk,\n\
            primary,FRONTEND,,OPEN,,\n\
            primary,pg1,0,UP,,\n\
            primary,pg2,0,DOWN,L7STS/503,\n\
            primary,BACKEND,0,UP,,\n\
            replicas,pg1,0,DOWN 1/2,L7STS/503,\n";
        let judge = |backends: serde_json::Value| {
            let backends = json!({"backends": backends});
            let backends: HaproxyBackends = crate::remote::arguments::read(backends).expect("arguments");
            backends.judge(statistics).err().unwrap_or_default()
        };
        assert_eq!(judge(json!({"primary": 1, "replicas": 0})), "");
        insta::assert_snapshot!(judge(json!({"primary": 2})), @"`primary` has 1 servers up, expected 2 (pg1 UP, pg2 DOWN L7STS/503)");
        insta::assert_snapshot!(judge(json!({"replica": 1})), @"there is no proxy `replica` with servers");
    }
}
