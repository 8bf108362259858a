//! SSH against OpenSSH's own server. Needs root: each server lives in a mount namespace of its own.

mod access;
mod commands;
mod host_keys;
pub mod sshd;
mod upload;
