//! What stories on real hosts are told with: the program, a cluster to tell them about, a client that
//! writes without pause, and an eye on every node at once.

pub mod archive;
#[allow(dead_code, reason = "each story uses some of it")]
pub mod lab;
pub mod postgres;
pub mod program;
pub mod sampler;
pub mod writer;
