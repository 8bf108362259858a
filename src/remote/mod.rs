//! The hands on a target: `pgfleet remote` receives batches of resources on standard input, looks,
//! compares, changes what differs, verifies, and streams events back. Runs where there is neither
//! inventory nor template, and imports neither.

mod arguments;
pub mod frame;
pub mod protocol;
pub mod resource;

pub use arguments::Permissions;
pub use resource::{Module, module, modules, parse};
