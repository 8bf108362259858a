//! The nouns of the field as validated types. Imports nothing else of ours.

mod digest;
mod lsn;
mod name;
mod pg_major;
mod secret;

pub use digest::Digest;
pub use lsn::Lsn;
pub use name::{HostName, InvalidName, MemberName, Scope};
pub use pg_major::PgMajor;
pub use secret::Secret;

/// A PostgreSQL timeline: 1 after `initdb`, one more with each promotion.
pub type Timeline = u32;
