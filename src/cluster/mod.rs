//! What is true of a whole cluster: who leads, who follows, what is wrong; the proof that it works; the
//! change of its leader.
//!
//! Asks agents, the DCS, HAProxy and PostgreSQL, all through the SSH connection to each host, so that
//! nothing but port 22 has to be open. Observing (`observe`) and judging (`assess`, pure) are apart.
//! Never changes a host by itself: switchover, restart and the like are asked of agents. Start reading at
//! [`status`]; [`rolling`] restarts members in the right order, [`upgrade`] says what is newer and in which
//! order, [`major`] brings PostgreSQL to another major version.

mod access;
mod assess;
mod certificates;
mod drift;
mod etcd;
mod haproxy;
mod http;
mod kv;
mod leaving;
pub mod major;
mod observe;
pub mod operator;
mod pick;
pub mod preflight;
pub mod probe;
pub mod rolling;
mod sql;
mod status;
mod switchover;
mod topology;
pub mod upgrade;
mod verify;
mod zookeeper;

pub use access::{Access, NoWay};
pub use certificates::{Served, State as CertificateState, certificates};
pub use drift::{HostDrift, drift};
pub use http::HttpError;
pub use kv::{Do, If, Kv, KvError, Outcome, Pair};
pub use leaving::{Leaving, MayNotLeave, leaving};
pub use pick::{NoMember, Wanted, pick};
pub use status::{Dcs, DcsMember, Frontend, Haproxy, Member, Status, Vip};
pub use switchover::{Switched, SwitchoverError, switchover};
pub use topology::{AgentHost, DcsHost, DcsKind, ProxyHost, Topology, VirtualAddress};
pub use verify::{Check, Verification, verify};

/// Asks everyone at once, and judges what they say. Takes as long as the slowest answer, at most a few
/// seconds: who does not answer in time is a problem of the cluster, not of the question.
pub async fn status(topology: &Topology, access: &Access) -> Status {
    assess::assess(topology, &observe::observe(topology, access).await)
}
