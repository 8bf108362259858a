//! Stories on real systemd hosts. They need root and fail, rather than pass by being skipped, where a
//! sandbox cannot be made.

mod again;
mod cluster;
mod credentials;
mod encrypted;
mod faults;
mod harness;
mod harness_itself;
mod hostile;
mod kills;
mod major;
mod operators;
mod plans;
mod preflight;
mod resources;
mod rolling;
mod sandbox;
mod scale;
mod stories;
mod upgrade;
