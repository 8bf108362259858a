//! The one integration test binary: `e2e/` against real hosts, `cases/` for bad input, `ssh/` against
//! OpenSSH's server, `tidy` for the laws of the house.

mod agent;
mod cases;
mod e2e;
mod engine;
mod fleet;
mod init;
mod journal;
#[macro_use]
mod postgres;
mod plan;
mod secrets;
mod shipped;
mod simulation;
mod ssh;
mod tidy;
