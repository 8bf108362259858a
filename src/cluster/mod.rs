//! What is true of a whole cluster: who leads, who follows, what is wrong; the proof that it works; the
//! change of its leader.
//!
//! Asks agents, the DCS, HAProxy and PostgreSQL, all through the SSH connection to each host, so that
//! nothing but port 22 has to be open. Observing (`observe`) and judging (`assess`, pure) are apart.
//! Never changes a host; a switchover is asked of the leader's agent. Start reading at [`status`].

mod access;
mod assess;
mod certificates;
mod etcd;
mod haproxy;
mod http;
mod observe;
pub mod preflight;
mod sql;
mod status;
mod switchover;
mod topology;
mod verify;
mod zookeeper;

pub use access::Access;
pub use certificates::{Served, State as CertificateState, certificates};
pub use http::HttpError;
pub use status::{Dcs, DcsMember, Frontend, Haproxy, Member, Status, Vip};
pub use switchover::{Switched, SwitchoverError, switchover};
pub use topology::{AgentHost, DcsHost, DcsKind, ProxyHost, Topology, VirtualAddress};
pub use verify::{Check, Verification, verify};

/// Asks everyone at once, and judges what they say. Takes as long as the slowest answer, at most a few
/// seconds: who does not answer in time is a problem of the cluster, not of the question.
pub async fn status(topology: &Topology, access: &Access) -> Status {
    assess::assess(topology, &observe::observe(topology, access).await)
}
