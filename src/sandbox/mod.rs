//! Throw-away systemd hosts on this machine.
//!
//! Owns: images, the network namespace of each sandbox, its hosts (systemd-nspawn on overlays), the
//! package cache, snapshots. Everything that exists on the machine for a sandbox can be found again
//! from its name alone, so that what a killed run left behind can be continued or removed.
//! Never: deploys anything into a host, reads an inventory, prints.
//!
//! Start reading at `lifecycle`; `host` boots and breaks one host, `network` makes what connects them.

mod cache;
mod cgroup;
mod command;
mod enter;
mod error;
mod events;
mod host;
mod image;
mod layout;
mod lifecycle;
mod name;
mod network;
mod nspawn;
mod overlay;
mod process;
mod record;
mod requirements;
mod snapshot;
mod spec;

pub use cache::serve as serve_cache;
pub use enter::{enter, exec, identity_file, known_hosts, ssh_command};
pub use error::Error;
pub use events::Event;
pub use layout::Store;
pub use lifecycle::{HostState, Sandbox, Status};
pub use name::Name;
pub use snapshot::Snapshot;
pub use spec::{HostSpec, Image, Spec};

/// What every function of this module returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
