//! The hands on a target: `pgfleet remote` receives batches of resources on standard input, looks,
//! compares, changes what differs, verifies, and streams events back. Runs where there is neither
//! inventory nor template, and imports neither. `server` is where to start reading.

mod accounts;
mod arguments;
mod arp;
mod command;
mod debts;
mod facts;
mod fetch;
mod files;
pub mod frame;
mod host;
mod http;
pub mod listeners;
mod lock;
mod memory;
pub mod preflight;
pub mod protocol;
mod psql;
pub mod resource;
mod server;
mod systemd;
mod taken;
#[cfg(test)]
mod tests;
mod wait;

pub use arguments::Permissions;
pub use http::Tls;
pub use resource::{Module, module, modules, parse};
pub use server::{run, serve};
