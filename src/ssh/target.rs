//! Who is to be reached, and the habits of this run.

use super::connect::Shared;
use crate::{
    inventory,
    model::{HostName, Secret},
};
use std::{fmt, path::Path, path::PathBuf, sync::Arc, time::Duration};

/// A host as the inventory describes the way to it. What is `None` here is taken from the user's
/// ssh_config, then from OpenSSH's defaults.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: HostName,
    /// Address, DNS name, or an alias in ssh_config.
    pub address: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    /// Private key that is tried before all others.
    pub identity: Option<PathBuf>,
    pub password: Option<Secret>,
    /// How commands that ask for it become another user; `None` runs them as the login user.
    pub r#become: Option<Become>,
    /// Words that OpenSSH's client would be given besides (`ansible_ssh_common_args`).
    pub ssh_args: Vec<String>,
    /// Trust and record the host's key if nothing is known about it yet.
    pub accept_new_host_key: bool,
}

impl Target {
    /// A target of which nothing but its address is known.
    pub fn new(name: HostName, address: impl Into<String>) -> Self {
        Self {
            name,
            address: address.into(),
            port: None,
            user: None,
            identity: None,
            password: None,
            r#become: None,
            ssh_args: Vec::new(),
            accept_new_host_key: false,
        }
    }
}

impl Target {
    /// The way to a host of the inventory. Where nothing of the user's counts (a sandbox), keys, jump
    /// hosts and passwords that the inventory names do not count either.
    pub fn of(host: &inventory::Host, options: &Options) -> Self {
        let connection = &host.connection;
        let own = options.use_ssh_config;
        Self {
            name: host.name.clone(),
            address: connection.host.clone(),
            port: connection.port,
            user: connection.user.clone().or_else(|| (!own).then(|| "root".to_owned())),
            identity: connection.private_key_file.clone().filter(|_| own),
            password: connection.password.clone().filter(|_| own),
            r#become: connection.r#become.then(|| Become {
                user: connection.become_user.clone(),
                password: connection.become_password.clone().filter(|_| own),
            }),
            ssh_args: if own { connection.ssh_args.clone() } else { Vec::new() },
            accept_new_host_key: own && !connection.host_key_checking,
        }
    }
}

/// The user that commands run as, reached through sudo unless it is the login user already.
#[derive(Clone, Debug)]
pub struct Become {
    pub user: String,
    /// What sudo asks for. It travels over standard input, never on a command line.
    pub password: Option<Secret>,
}

impl Become {
    /// root, by a sudo that asks for no password.
    pub fn root() -> Self {
        Self { user: "root".to_owned(), password: None }
    }
}

/// Asks the operator for the passphrase of a private key; `None` when there is nobody to ask.
#[derive(Clone)]
pub struct PassphrasePrompt(pub Arc<PassphraseQuestion>);

/// Is given the path of the key, and blocks until it is answered.
pub type PassphraseQuestion = dyn Fn(&Path) -> Option<Secret> + Send + Sync;

impl fmt::Debug for PassphrasePrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassphrasePrompt")
    }
}

/// What holds for every connection of a run. Clone it freely: clones share the connections to jump
/// hosts and the passphrases that were asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Limit for reaching a host: TCP, key exchange and authentication together.
    pub connect_timeout: Duration,
    /// Silence after which the other side is asked whether it is alive; three answers missed end the
    /// connection.
    pub keepalive: Duration,
    /// Trust and record the key of a host that nothing is known about yet. A key that differs from a
    /// known one is refused all the same.
    pub accept_new_host_keys: bool,
    /// The one key to use, instead of the user's own and the agent's (a sandbox's).
    pub identity: Option<PathBuf>,
    /// The one known_hosts file to use, instead of the user's and the machine's.
    pub known_hosts: Option<PathBuf>,
    /// Whether the user's ssh_config is obeyed, by way of `ssh -G`, where OpenSSH's client exists.
    pub use_ssh_config: bool,
    /// ssh-agent's socket.
    pub agent: Option<PathBuf>,
    pub passphrase: Option<PassphrasePrompt>,
    #[doc(hidden)]
    pub shared: Shared,
}

impl Default for Options {
    /// The user's own configuration, keys and agent.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            keepalive: Duration::from_secs(5),
            accept_new_host_keys: false,
            identity: None,
            known_hosts: None,
            use_ssh_config: true,
            agent: std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from),
            passphrase: None,
            shared: Shared::default(),
        }
    }
}

impl Options {
    /// Nothing of the user's: one key, one known_hosts file, no ssh_config, no agent.
    pub fn isolated(identity: PathBuf, known_hosts: PathBuf) -> Self {
        Self {
            identity: Some(identity),
            known_hosts: Some(known_hosts),
            use_ssh_config: false,
            agent: None,
            ..Self::default()
        }
    }
}
