//! Generated passwords, the file beside the inventory that keeps them, and Ansible Vault's format.
//!
//! Owns how secrets are made, stored, sealed and opened, and what PostgreSQL stores in their place. Never shows
//! one; never decides which are needed.

mod editor;
mod keyring;
pub mod scram;
mod store;
mod vault;

pub use editor::edit;
pub use keyring::{Ask, Keyring, Question, from_file, ways};
pub use store::Store;
pub use vault::is_sealed;

use crate::model::Secret;
use rand::RngExt;

/// Characters that need no quoting in a shell, a URL, YAML, or a configuration file.
const CHARACTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";

/// A new password of 32 characters, or of as many as there may be at most.
pub fn generate(most: usize) -> Secret {
    let mut random = rand::rng();
    let length = most.min(32);
    let character = |_| char::from(CHARACTERS[random.random_range(0..CHARACTERS.len())]);
    Secret::new((0..length).map(character).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_differ() {
        assert_eq!(generate(usize::MAX).expose().len(), 32);
        assert_eq!(generate(8).expose().len(), 8);
        assert_ne!(generate(32), generate(32));
    }
}
