//! Drives one PostgreSQL server, 13 to 18: its process, configuration files, replication, slots,
//! roles, base backups and rewinds.
//!
//! Owns: the data directory, the postmaster, and the monitoring connection. Never decides: it is told
//! what to do by the agent's runtime and says what it saw. Runs as the operating system user that owns
//! the data directory, never as root.
//!
//! Start reading at [`Server`]; a file per kind of work beside it, each an `impl Server` block.

mod bootstrap;
mod clone;
mod configure;
mod connection;
mod controldata;
mod data_dir;
mod divergence;
mod error;
mod facts;
mod files;
mod follow;
mod handle;
mod history;
mod lifecycle;
mod observe;
mod parameters;
mod process;
mod promote;
mod rewind;
mod server;
mod settings;
mod slots;
mod ssl;
mod tools;
mod walsender;

pub use clone::{Existing, Progress};
pub use configure::{Change, Reconfigured};
pub use controldata::{ClusterState, ControlData};
pub use data_dir::DataDir;
pub use divergence::{Divergence, Position};
pub use error::Error;
pub use facts::{Facts, Process, Receiver, Sender, Session, Slot};
pub use follow::Followed;
pub use history::{History, Switch};
pub use lifecycle::{StopMode, Stopped};
pub use process::Postmaster;
pub use server::{Role, Server, Started};
pub use settings::{Credentials, Settings, Upstream};
pub use slots::{SlotChanges, slot_name};
pub use ssl::{Ssl, SslMode};
