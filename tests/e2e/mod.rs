//! Stories on real systemd hosts. They need root and fail, rather than pass by being skipped, where a
//! sandbox cannot be made.

mod harness;
mod harness_itself;
mod sandbox;
