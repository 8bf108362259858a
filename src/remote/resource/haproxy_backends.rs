//! What HAProxy sees behind it.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

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
