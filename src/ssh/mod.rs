//! How to get to a host: one authenticated connection, over which commands run, files go up and TCP
//! streams are tunnelled.
//!
//! Owns host keys, identities, jump hosts, sudo and the upload of our own executable. It knows nothing
//! of plays or tasks, never prints, and never trusts a host key that OpenSSH would not trust.
//! Start reading at [`Session::connect`] in `connect.rs`; `launch.rs` holds what runs on the far side.

mod auth;
mod channel;
mod config;
mod connect;
mod error;
mod executable;
mod host_key;
mod identity;
mod known_hosts;
mod launch;
mod session;
mod sudo;
mod target;

pub use channel::{Exit, Process, Stderr, Stdin, Stdout, Tunnel};
pub use config::openssh_arguments;
pub use error::{ConnectError, ConnectProblem, SessionError, SessionProblem};
pub use executable::{Architecture, Executables, LocalExecutable};
pub use launch::quote;
pub use session::{Output, Session};
pub use target::{Become, Options, PassphrasePrompt, Target};
