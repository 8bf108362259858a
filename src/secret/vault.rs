//! Ansible Vault's format, versions 1.1 and 1.2: a text sealed with a passphrase.
//!
//! A header line, then lines of hexadecimal digits that hold, as hexadecimal digits once more, salt, HMAC and
//! ciphertext. PBKDF2 makes of passphrase and salt the keys of AES-256-CTR and of HMAC-SHA256.
//! Pure but for the salt.

use crate::{model::Secret, yaml::SEALED as MARK};
use aes::Aes256;
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit, StreamCipher},
};
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

const ROUNDS: u32 = 10_000;
const BLOCK: usize = 16;
/// Digits in a line.
const WIDTH: usize = 80;

/// Whether a text is a sealed one.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// A sealed text, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The vault id that version 1.2 may carry: a hint which passphrase opens it.
    pub id: Option<String>,
    salt: Vec<u8>,
    mac: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// Why a text is no sealed one, or can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this is not the format of Ansible Vault 1.1 or 1.2")]
    Format,
    #[error("it was sealed with another passphrase, or has been changed since")]
    Passphrase,
    #[error("what is in it is not text")]
    Text,
}

impl Sealed {
    /// Takes a text apart. White space around lines has no meaning.
    pub fn parse(text: &str) -> Result<Sealed, Error> {
        let mut lines = text.trim().lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().trim().split(';').collect();
        let id = match header.as_slice() {
            [MARK, "1.1", "AES256"] => None,
            [MARK, "1.2", "AES256", id] => Some((*id).to_owned()),
            _ => return Err(Error::Format),
        };
        let digits: String = lines.map(str::trim).collect();
        let inner = hex::decode(digits).map_err(|_| Error::Format)?;
        let mut parts = inner.split(|byte| *byte == b'\n');
        let mut part = || hex::decode(parts.next().unwrap_or_default()).map_err(|_| Error::Format);
        let sealed = Sealed { id, salt: part()?, mac: part()?, ciphertext: part()? };
        if sealed.salt.is_empty() || sealed.ciphertext.is_empty() || parts.next().is_some() {
            return Err(Error::Format);
        }
        Ok(sealed)
    }

    /// The text, if this is its passphrase. The HMAC is compared in constant time before anything is decrypted.
    pub fn open(&self, passphrase: &Secret) -> Result<Secret, Error> {
        let keys = Keys::of(passphrase, &self.salt);
        keys.mac(&self.ciphertext).verify_slice(&self.mac).map_err(|_| Error::Passphrase)?;
        let mut text = Zeroizing::new(self.ciphertext.clone());
        keys.cipher().apply_keystream(&mut text);
        // PKCS#7: the last byte says how many there are of it.
        let padding = text.last().map(|last| usize::from(*last)).unwrap_or_default();
        if !(1..=BLOCK).contains(&padding) || padding > text.len() {
            return Err(Error::Format);
        }
        let length = text.len() - padding;
        text[length..].zeroize();
        text.truncate(length);
        String::from_utf8(std::mem::take(&mut *text)).map(Secret::new).map_err(|error| {
            error.into_bytes().zeroize();
            Error::Text
        })
    }
}

/// Seals a text: version 1.2 with a vault id, else 1.1.
pub fn seal(text: &Secret, passphrase: &Secret, id: Option<&str>) -> String {
    let mut salt = [0; 32];
    rand::rng().fill_bytes(&mut salt);
    seal_with(text, passphrase, id, &salt)
}

fn seal_with(text: &Secret, passphrase: &Secret, id: Option<&str>, salt: &[u8]) -> String {
    let keys = Keys::of(passphrase, salt);
    let plain = text.expose().as_bytes();
    let padding = BLOCK - plain.len() % BLOCK;
    // Of its final size at once: a buffer that grows leaves copies behind.
    let mut ciphertext = Vec::with_capacity(plain.len() + padding);
    ciphertext.extend_from_slice(plain);
    ciphertext.resize(plain.len() + padding, padding as u8);
    keys.cipher().apply_keystream(&mut ciphertext);
    let mac = keys.mac(&ciphertext).finalize().into_bytes();
    let inner = [salt, mac.as_slice(), &ciphertext].map(hex::encode).join("\n");
    let mut sealed = match id {
        Some(id) => format!("{MARK};1.2;AES256;{id}\n"),
        None => format!("{MARK};1.1;AES256\n"),
    };
    let digits = hex::encode(inner);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index % WIDTH == 0 {
            sealed.push('\n');
        }
        sealed.push(digit);
    }
    sealed.push('\n');
    sealed
}

/// What PBKDF2 makes of a passphrase: a key for the cipher, one for the HMAC, and the first counter.
struct Keys(Zeroizing<[u8; 80]>);

impl Keys {
    fn of(passphrase: &Secret, salt: &[u8]) -> Keys {
        let mut keys = Zeroizing::new([0; 80]);
        pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.expose().as_bytes(), salt, ROUNDS, keys.as_mut_slice());
        Keys(keys)
    }

    fn cipher(&self) -> Ctr128BE<Aes256> {
        let (mut key, mut counter) = (Zeroizing::new([0; 32]), [0; BLOCK]);
        key.copy_from_slice(&self.0[..32]);
        counter.copy_from_slice(&self.0[64..]);
        Ctr128BE::<Aes256>::new(&(*key).into(), &counter.into())
    }

    fn mac(&self, ciphertext: &[u8]) -> Hmac<Sha256> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0[32..64]) else {
            unreachable!("an HMAC takes a key of any length")
        };
        mac.update(ciphertext);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSPHRASE: &str = include_str!("../../tests/cases/vault/passphrase");
    const PLAIN: &str = include_str!("../../tests/cases/vault/plain.yml");

    fn passphrase() -> Secret {
        Secret::new(PASSPHRASE.trim())
    }

    #[test]
    fn opens_what_ansible_vault_has_sealed() {
        for (file, id) in [
            (include_str!("../../tests/cases/vault/one-one.yml"), None),
            (include_str!("../../tests/cases/vault/one-two.yml"), Some("prod")),
        ] {
            assert!(is_sealed(file));
            let sealed = Sealed::parse(file).unwrap();
            assert_eq!(sealed.id.as_deref(), id);
            assert_eq!(sealed.open(&passphrase()).unwrap().expose(), PLAIN);
            assert_eq!(sealed.open(&Secret::new("wrong")), Err(Error::Passphrase));
            // Sealed again with the same salt, it is the same to the byte.
            assert_eq!(seal_with(&Secret::new(PLAIN), &passphrase(), id, &sealed.salt), file);
        }
    }

    #[test]
    fn a_changed_text_is_refused() {
        let sealed = Sealed::parse(&seal(&Secret::new("text"), &passphrase(), None)).unwrap();
        for change in [
            |sealed: &mut Sealed| sealed.ciphertext[0] ^= 1,
            |sealed: &mut Sealed| sealed.salt[0] ^= 1,
            |sealed: &mut Sealed| sealed.mac[31] ^= 1,
            |sealed: &mut Sealed| sealed.mac.truncate(31),
            |sealed: &mut Sealed| sealed.mac.clear(),
        ] {
            let mut changed = sealed.clone();
            change(&mut changed);
            assert_eq!(changed.open(&passphrase()), Err(Error::Passphrase));
        }
    }

    #[test]
    fn other_formats_are_refused() {
        for text in [
            "",
            "$ANSIBLE_VAULT;1.1;AES256\n",
            "$ANSIBLE_VAULT;1.0;AES\n3132\n",
            "$ANSIBLE_VAULT;1.1;AES256\nnot hexadecimal\n",
            "$ANSIBLE_VAULT;1.1;AES256\n33310a33310a\n",
            "$ANSIBLE_VAULT;1.1;AES256\n33310a33310a33310a3331\n",
            "$ANSIBLE_VAULT;1.2;AES256\n33310a33310a3331\n",
        ] {
            assert_eq!(Sealed::parse(text), Err(Error::Format), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn what_was_sealed_opens(text: String, passphrase in ".+", id in proptest::option::of("[a-z]{1,8}")) {
            let (text, passphrase) = (Secret::new(text), Secret::new(passphrase));
            let sealed = seal(&text, &passphrase, id.as_deref());
            prop_assert!(sealed.lines().all(|line| line.len() <= WIDTH));
            prop_assert_eq!(Sealed::parse(&sealed).unwrap().open(&passphrase), Ok(text));
        }
    }
}
