//! SCRAM verifiers: what PostgreSQL stores in place of a password.

use crate::model::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// A verifier of `password` with a new salt.
pub fn verifier(password: &Secret) -> String {
    postgres_protocol::password::scram_sha_256(password.expose().as_bytes())
}

/// Whether `stored`, a value of `pg_authid.rolpassword`, is a SCRAM verifier of `password`.
pub fn verifies(stored: &str, password: &Secret) -> bool {
    let parse = || -> Option<bool> {
        let (iterations, rest) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, _) = keys.split_once(':')?;
        let (salt, stored_key) = (STANDARD.decode(salt).ok()?, STANDARD.decode(stored_key).ok()?);
        let mut salted = [0; 32];
        // PostgreSQL takes a password that has no normal form as it is.
        let normal = stringprep::saslprep(password.expose()).unwrap_or(Cow::Borrowed(password.expose()));
        pbkdf2::pbkdf2_hmac::<Sha256>(normal.as_bytes(), &salt, iterations.parse().ok()?, &mut salted);
        let mut client_key = Hmac::<Sha256>::new_from_slice(&salted).ok()?;
        client_key.update(b"Client Key");
        let digest: [u8; 32] = Sha256::digest(client_key.finalize().into_bytes()).into();
        Some(digest.as_slice() == stored_key.as_slice())
    };
    parse().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_verifies_its_password_alone() {
        let password = Secret::new("correct horse");
        for password in [&password, &Secret::new("pa\u{df}\u{a0}w\u{f6}rt \u{2168}"), &Secret::new("\u{7}")] {
            let stored = verifier(password);
            assert!(verifies(&stored, password));
            assert!(!verifies(&stored, &Secret::new("wrong horse")));
        }
        for other in ["", "md5abcdef", "SCRAM-SHA-256$4096:x", "SCRAM-SHA-256$n:AA==$AA==:AA=="] {
            assert!(!verifies(other, &password), "{other}");
        }
    }
}
