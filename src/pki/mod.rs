//! The certificate authority of a cluster, and the certificates of its services.
//!
//! Owns how they are made, what is read from them, and when one is due. Never keeps them: the authority's
//! key and the certificates with their keys lie with the passwords in the secrets file. There, because a step
//! of a run is complete when it leaves the control machine: what is compared with a host and what is sent to
//! it are the same bytes, so a second run changes nothing and a host that lost its files gets them back. A
//! file that holds the authority's key gives nothing more away by holding the keys that it signed for.

mod authority;
mod facts;
mod renewal;
#[cfg(test)]
mod tests;

pub use authority::{Authority, Leaf, Wanted};
pub use facts::Facts;
pub use renewal::{Reason, reason};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a certificate for {subject} cannot be made: {why}")]
    Making { subject: String, why: String },
    #[error("the {what} cannot be read: {why}")]
    Reading { what: &'static str, why: String },
}
