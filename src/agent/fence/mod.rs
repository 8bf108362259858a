//! What keeps PostgreSQL from being left writable without a lease when its agent is gone: the file in
//! which the agent leaves its deadline, and the guard that acts on it.
//!
//! The ladder: the agent's own deadline; the service manager's watchdog, which ends an agent that hangs;
//! the fence, which the service manager runs whenever an agent has ended in whatever way.

mod guard;
mod lease_file;

pub use guard::{Guarded, guard};
pub use lease_file::{LeaseFile, Remembered};
