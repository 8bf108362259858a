//! What runs leave in the cluster's own etcd: the deploy lock, the history, the inventory as it was applied.
//!
//! All below `/pgfleet/NAME/`, outside of the agents' folder. A run begins by taking the lock (`lock`), ends by
//! writing what it did (`history`) and what it made of the cluster (`desired`). Clusters without etcd have none of
//! it; the locks on the hosts hold there too. Start reading at [`Journal::begin`] in `run`.

mod author;
mod base;
pub mod desired;
pub mod history;
mod keys;
mod lease;
mod lock;
mod process;
mod run;

pub use author::Author;
pub use lock::{Holder, holder, unlock};
pub use process::Process;
pub use run::{Ended, Intent, Journal, NoLock, Unlocked, store};
