//! The driver against real PostgreSQL: servers of their own in temporary directories, on free loopback
//! ports, as user `postgres`.

#[macro_use]
pub mod support;
mod configuration;
mod lifecycle;
mod replication;
mod roles;
