//! pgfleet turns a list of machines into a highly available PostgreSQL cluster and keeps it so.
//!
//! Start reading at `cli`, which holds a file per command. A deploy flows from `inventory` and
//! `playbook` through `engine` and `ssh` to `remote`, the hands on a target. The HA agent lives in
//! `agent`; its decisions are the pure function in `agent::core`. The two halves share nothing but
//! `contract` and `model`.

pub mod agent;
pub mod builtin;
pub mod cli;
pub mod cluster;
pub mod contract;
pub mod diagnostic;
pub mod engine;
pub mod fleet;
pub mod inventory;
pub mod journal;
pub mod model;
pub mod pki;
pub mod playbook;
pub mod remote;
pub mod sandbox;
pub mod secret;
pub mod ssh;
pub mod template;
pub mod tls;
pub mod ui;
pub mod yaml;
