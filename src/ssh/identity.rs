//! What we can prove ourselves with: private key files, their certificates, and the agent's keys.

use super::{config::Route, error::ConnectProblem, target::PassphrasePrompt};
use russh::keys::{
    Certificate, HashAlg, PrivateKey, PublicKey,
    agent::{AgentIdentity, client::AgentClient},
    decode_secret_key, load_openssh_certificate,
};
use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{net::UnixStream, sync::Mutex};

/// Private keys that were read in this run, so that each is read, and its passphrase asked for, once.
pub type KeyCache = Arc<Mutex<HashMap<PathBuf, Arc<KeyFile>>>>;

/// A private key file.
#[derive(Debug)]
pub enum KeyFile {
    Open {
        key: Arc<PrivateKey>,
        certificate: Option<Box<Certificate>>,
    },
    /// Sealed by a passphrase that nobody gave. The agent may hold it: then its public part says so.
    Sealed {
        public: Option<PublicKey>,
    },
}

impl KeyFile {
    pub fn public(&self) -> Option<&PublicKey> {
        match self {
            Self::Open { key, .. } => Some(key.public_key()),
            Self::Sealed { public } => public.as_ref(),
        }
    }
}

/// Reads the key file at `path`; `None` when there is no such file.
pub async fn read(
    path: &Path,
    prompt: Option<&PassphrasePrompt>,
    cache: &KeyCache,
) -> Result<Option<Arc<KeyFile>>, ConnectProblem> {
    let mut cache = cache.lock().await;
    if let Some(key) = cache.get(path) {
        return Ok(Some(key.clone()));
    }
    let (owned, prompt) = (path.to_owned(), prompt.cloned());
    // Deriving a key from a passphrase takes a good part of a second.
    let read = tokio::task::spawn_blocking(move || open(&owned, prompt.as_ref())).await;
    let key = read.map_err(|error| error.to_string()).flatten();
    match key {
        Ok(None) => Ok(None),
        Ok(Some(key)) => {
            let key = Arc::new(key);
            cache.insert(path.to_owned(), key.clone());
            Ok(Some(key))
        }
        Err(why) => Err(ConnectProblem::Identity { path: path.to_owned(), why }),
    }
}

fn open(path: &Path, prompt: Option<&PassphrasePrompt>) -> Result<Option<KeyFile>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if let Ok(meta) = fs::metadata(path)
        && meta.mode() & 0o077 != 0
        && meta.uid() == nix::unistd::getuid().as_raw()
    {
        return Err(format!("others may read it (mode {:04o}); run `chmod 600` on it", meta.mode() & 0o7777));
    }
    let key = match decode_secret_key(&text, None) {
        Ok(key) if !key.is_encrypted() => key,
        Ok(_) | Err(russh::keys::Error::KeyIsEncrypted) => {
            let public = public_beside(path, &text);
            let Some(passphrase) = prompt.and_then(|prompt| prompt.0(path)) else {
                return Ok(Some(KeyFile::Sealed { public }));
            };
            decode_secret_key(&text, Some(passphrase.expose()))
                .map_err(|_| "the passphrase is wrong".to_owned())?
        }
        Err(error) => return Err(format!("it is not a private key that OpenSSH would read ({error})")),
    };
    let certificate = load_openssh_certificate(with_suffix(path, "-cert.pub")).ok().map(Box::new);
    Ok(Some(KeyFile::Open { key: Arc::new(key), certificate }))
}

/// The public part of a sealed key: OpenSSH's format has it in clear, others in the `.pub` beside.
fn public_beside(path: &Path, text: &str) -> Option<PublicKey> {
    match PrivateKey::from_openssh(text) {
        Ok(key) => Some(key.public_key().clone()),
        Err(_) => russh::keys::load_public_key(with_suffix(path, ".pub")).ok(),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// ssh-agent, with what it holds.
pub struct Agent {
    pub client: AgentClient<UnixStream>,
    pub identities: Vec<AgentIdentity>,
}

impl Agent {
    /// Asks the agent of `route`. An agent that is not there, or says nothing within two seconds, is
    /// as good as none.
    pub async fn open(route: &Route) -> Option<Self> {
        let socket = route.agent.as_ref()?;
        let ask = async {
            let mut client = AgentClient::connect_uds(socket).await.ok()?;
            let identities = client.request_identities().await.ok()?;
            Some(Self { client, identities })
        };
        tokio::time::timeout(std::time::Duration::from_secs(2), ask).await.ok().flatten()
    }

    pub fn holds(&self, key: &PublicKey) -> bool {
        self.identities.iter().any(|identity| identity.public_key().key_data() == key.key_data())
    }
}

/// `ED25519 SHA256:...`, as `ssh-add -l` would name a key.
pub fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}
