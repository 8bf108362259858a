//! The HA agent beside each PostgreSQL: observers feed facts to one task, `core::decide` says what to
//! do, actuators do it.

pub mod api;
pub mod clock;
pub mod config;
#[deny(clippy::disallowed_methods)]
pub mod core;
pub mod dcs;
pub mod fence;
pub mod postgres;
pub mod run;
pub mod view;
