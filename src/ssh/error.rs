//! What can go wrong on the way to a host and on it, each with the step that helps.

use crate::model::HostName;
use std::{fmt, path::PathBuf, time::Duration};

/// A host could not be reached, or would not let us in. Nothing was changed on it.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {problem}")]
pub struct ConnectError {
    pub host: HostName,
    pub problem: Box<ConnectProblem>,
}

impl ConnectError {
    pub fn new(host: &HostName, problem: ConnectProblem) -> Self {
        Self { host: host.clone(), problem: Box::new(problem) }
    }

    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        self.problem.next_step()
    }
}

/// An entry of a known_hosts file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEntry {
    pub file: PathBuf,
    pub line: usize,
    pub algorithm: String,
    pub fingerprint: String,
}

impl fmt::Display for KnownEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} {}", self.file.display(), self.line, self.algorithm, self.fingerprint)
    }
}

/// A key as the server offered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedKey {
    /// The name that known_hosts files have the host under, `[host]:port` for other ports than 22.
    pub name: String,
    pub algorithm: String,
    pub fingerprint: String,
}

/// What stands behind the path of a key that nobody unlocked.
pub(super) const SEALED: &str = " is sealed by a passphrase";

#[derive(Debug, thiserror::Error)]
pub enum ConnectProblem {
    #[error("ssh_config is not usable: {0}")]
    Config(String),
    #[error("the name `{name}` has no address: {source}")]
    UnknownName { name: String, source: std::io::Error },
    #[error("{to} refuses connections")]
    Refused { to: String },
    #[error("{to} did not answer within {} s ({stage})", after.as_secs_f32())]
    TimedOut { to: String, after: Duration, stage: &'static str },
    #[error("no route to {to}")]
    NoRoute { to: String, source: std::io::Error },
    #[error("{to}: {source}")]
    Network { to: String, source: std::io::Error },
    #[error("{to} closed the connection before it said that it speaks SSH")]
    ClosedEarly { to: String },
    #[error("{to} does not speak SSH")]
    NotSsh { to: String },
    #[error("{to} and pgfleet have no common {kind}; it offers {theirs}")]
    NoCommonAlgorithm { to: String, kind: String, theirs: String },
    #[error("the key of `{}` is not known: it offers {} {}", offered.name, offered.algorithm, offered.fingerprint)]
    HostKeyUnknown { offered: OfferedKey, file: PathBuf },
    #[error("THE HOST KEY OF `{}` HAS CHANGED: known is {}, it offers {} {}", offered.name,
            known.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "), offered.algorithm, offered.fingerprint)]
    HostKeyChanged { offered: OfferedKey, known: Vec<KnownEntry> },
    #[error("the key of `{}` is revoked by {revoked}", offered.name)]
    HostKeyRevoked { offered: OfferedKey, revoked: Box<KnownEntry> },
    #[error("the host certificate of `{}` is not valid: {why}", offered.name)]
    HostCertificate { offered: OfferedKey, why: String },
    #[error("{} cannot be {verb}: {source}", file.display())]
    KnownHosts { file: PathBuf, verb: &'static str, source: std::io::Error },
    #[error(
        "user `{user}` is refused at {to}: {}; the server accepts {}",
        tried_text(tried, skipped),
        offered_text(offered)
    )]
    AccessDenied { to: String, user: String, tried: Vec<String>, skipped: Vec<String>, offered: Vec<String> },
    #[error("the private key {} is not usable: {why}", path.display())]
    Identity { path: PathBuf, why: String },
    #[error("the way there leads over a jump host, and {0}")]
    Jump(std::sync::Arc<ConnectError>),
    #[error("the jump host {jump} cannot reach {to}: {why}")]
    BehindJump { jump: String, to: String, why: String },
    #[error("the ProxyCommand `{command}` failed: {why}")]
    ProxyCommand { command: String, why: String },
    #[error("the connection to {to} ended: {why}")]
    Ended { to: String, why: String },
}

fn tried_text(tried: &[String], skipped: &[String]) -> String {
    let mut text = match tried {
        [] => "no key or password to offer".to_owned(),
        tried => format!("it tried {}", tried.join(", ")),
    };
    if !skipped.is_empty() {
        text = format!("{text}; not usable: {}", skipped.join(", "));
    }
    text
}

fn offered_text(offered: &[String]) -> String {
    if offered.is_empty() { "nothing more".to_owned() } else { offered.join(", ") }
}

impl ConnectProblem {
    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        match self {
            Self::Config(_) => {
                "Run `ssh -G HOST` to see what OpenSSH makes of it, and correct it there.".to_owned()
            }
            Self::UnknownName { name, .. } => {
                format!("Set `ansible_host` to the address of `{name}`, or make the name resolve.")
            }
            Self::Refused { to } => {
                format!("Is sshd running there, and is {to} its address and port (`ansible_port`)?")
            }
            Self::TimedOut { stage, .. } if *stage == "connecting" => {
                "Is the host up, and does a firewall let this machine reach its SSH port?"
                    .to_owned()
            }
            Self::TimedOut { .. } => {
                "The host accepts connections but does not answer in time: look at its load, and at its sshd's log."
                    .to_owned()
            }
            Self::NoRoute { .. } | Self::Network { .. } => {
                "Is the host up? Check the address, the route and the firewalls on the way.".to_owned()
            }
            Self::ClosedEarly { .. } => {
                "sshd may be starting, at its limit (`MaxStartups`), or refusing this address: see its log with \
                 `journalctl -u ssh`."
                    .to_owned()
            }
            Self::NotSsh { to } => format!("Another service listens on {to}: check `ansible_port`."),
            Self::NoCommonAlgorithm { .. } => "Update OpenSSH on the host, or allow a newer algorithm there.".to_owned(),
            Self::HostKeyUnknown { offered, file } => format!(
                "Compare the fingerprint with the one that the host's console shows \
                 (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), then record it with `{} >> {}`; \
                 or trust the first contact with --accept-new-host-keys.",
                keyscan(&offered.name),
                file.display()
            ),
            Self::HostKeyChanged { offered, known } => {
                let mut files: Vec<_> = known.iter().map(|entry| entry.file.display().to_string()).collect();
                files.dedup();
                let removal: Vec<_> = files
                    .iter()
                    .map(|file| format!("`ssh-keygen -f {file} -R '{}'`", offered.name))
                    .collect();
                format!(
                    "If the host was reinstalled, remove the old key with {} and try again. \
                     If it was not, somebody may be listening in between: do not go on.",
                    removal.join(" and ")
                )
            }
            Self::HostKeyRevoked { .. } => {
                "Somebody marked this key as no longer to be trusted: give the host a new key, or find out why.".to_owned()
            }
            Self::HostCertificate { .. } => {
                "Have the host's certificate signed again for this name by the authority in known_hosts.".to_owned()
            }
            Self::KnownHosts { file, .. } => format!("Look at the file and its rights: `ls -l {}`.", file.display()),
            Self::AccessDenied { user, skipped, offered, .. } => {
                let mut step = String::new();
                let sealed = skipped.iter().filter_map(|key| key.split_once(SEALED));
                let sealed: Vec<_> = sealed.map(|(path, _)| path).collect();
                if !sealed.is_empty() {
                    step.push_str(&format!("Unlock it with `ssh-add {}`. ", sealed.join(" ")));
                }
                if offered.iter().any(|method| method == "publickey") || offered.is_empty() {
                    step.push_str(&format!(
                        "Name a key that is in ~{user}/.ssh/authorized_keys there with `ansible_ssh_private_key_file`, \
                         or put yours there with `ssh-copy-id`; check `ansible_user`."
                    ));
                } else {
                    step.push_str("Set `ansible_password`, or allow public keys in the host's sshd_config.");
                }
                step
            }
            Self::Identity { path, .. } => format!("Check it with `ssh-keygen -yf {}`.", path.display()),
            Self::Jump(inner) => inner.next_step(),
            Self::BehindJump { jump, to, .. } => {
                format!("Try `ssh {jump} nc -z {}`; sshd there needs `AllowTcpForwarding yes`.", to.replace(':', " "))
            }
            Self::ProxyCommand { command, .. } => format!("Run `{command}` by hand to see what it says."),
            Self::Ended { .. } => "Look at the log of sshd there: `journalctl -u ssh`.".to_owned(),
        }
    }
}

/// The command that fetches the keys of a host that is known as `host` or `[host]:port`.
fn keyscan(name: &str) -> String {
    match name.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((host, port)) => format!("ssh-keyscan -p {port} {host}"),
        None => format!("ssh-keyscan {name}"),
    }
}

/// Something failed on a host that we are connected to.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {problem}")]
pub struct SessionError {
    pub host: HostName,
    pub problem: Box<SessionProblem>,
}

impl SessionError {
    pub fn new(host: &HostName, problem: SessionProblem) -> Self {
        Self { host: host.clone(), problem: Box::new(problem) }
    }

    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        self.problem.next_step()
    }

    /// Whether the host went away, in contrast to having said no.
    pub fn is_unreachable(&self) -> bool {
        matches!(*self.problem, SessionProblem::Lost { .. })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SessionProblem {
    #[error("the connection was lost: {why}")]
    Lost { why: String },
    #[error("the server opens no further channel: {why}")]
    ChannelRefused { why: String },
    #[error("the server refuses to run commands")]
    ExecRefused,
    #[error("no connection to {to}: {why}")]
    TunnelRefused { to: String, why: String },
    #[error("the host's sshd forbids TCP forwarding, so {to} cannot be reached through it")]
    TunnelForbidden { to: String },
    #[error("sudo is not installed, and user `{user}` is not root")]
    NoSudo { user: String },
    #[error("sudo asks for a password, and none is given")]
    SudoNeedsPassword,
    #[error("sudo does not accept the password of user `{user}`")]
    SudoWrongPassword { user: String },
    #[error("user `{user}` may not use sudo")]
    NotInSudoers { user: String },
    #[error("sudo wants a terminal (`requiretty`)")]
    SudoNeedsTerminal,
    #[error("sudo failed: {said}")]
    Sudo { said: String },
    #[error("the command did not start: {said}")]
    NotStarted { said: String },
    #[error("no room on the device for {path}")]
    DiskFull { path: String },
    #[error("{path} is on a read-only file system")]
    ReadOnly { path: String },
    #[error("{path} may not be written: {said}")]
    NotWritable { path: String, said: String },
    #[error("{path} may not be executed: the file system is mounted with `noexec`, or a policy forbids it")]
    NoExec { path: String },
    #[error("the host is {host}, and there is no executable for it; there is one for {have}")]
    NoExecutableFor { host: String, have: String },
    #[error("the executable at {path} does not run there: {said}")]
    DoesNotRun { path: String, said: String },
    #[error("{path} cannot be read here: {source}")]
    LocalFile { path: PathBuf, source: std::io::Error },
    #[error("{} was built for {is}, not for {named}", path.display())]
    OtherArchitecture { path: PathBuf, is: String, named: String },
    #[error("the upload to {path} failed: {said}")]
    Upload { path: String, said: String },
}

impl SessionProblem {
    /// What the operator does next, as sentences.
    pub fn next_step(&self) -> String {
        match self {
            Self::Lost { .. } => "Is the host still up? Run the same command again once it is.".to_owned(),
            Self::ChannelRefused { .. } => "Raise `MaxSessions` in the host's sshd_config (its default is 10).".to_owned(),
            Self::ExecRefused => {
                "A `ForceCommand` or a `command=` in authorized_keys stands in the way: use a user without it.".to_owned()
            }
            Self::TunnelRefused { to, .. } => format!("Does anything listen on {to} there? See `ss -ltnp` on the host."),
            Self::TunnelForbidden { .. } => {
                "Set `AllowTcpForwarding local` for this user in the host's sshd_config.".to_owned()
            }
            Self::NoSudo { .. } => {
                "Install sudo there, or log in as root (`ansible_user: root`, `ansible_become: false`).".to_owned()
            }
            Self::SudoNeedsPassword => {
                "Set `ansible_become_password`, or give the user `NOPASSWD: ALL` in /etc/sudoers.d.".to_owned()
            }
            Self::SudoWrongPassword { .. } => "Correct `ansible_become_password`.".to_owned(),
            Self::NotInSudoers { user } => {
                format!("Allow it there, for example with `{user} ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/{user}.")
            }
            Self::SudoNeedsTerminal => "Add `Defaults !requiretty` to /etc/sudoers.d there.".to_owned(),
            Self::Sudo { .. } => "Try `sudo -n true` on the host by hand.".to_owned(),
            Self::NotStarted { .. } => "Try the same by hand with `pgfleet ssh HOST`.".to_owned(),
            Self::DiskFull { path } => format!("Free some space there: see `df -h {}`.", parent(path)),
            Self::ReadOnly { path } => {
                format!("Find out why it is read-only (`findmnt -T {}`, `dmesg`), and mount it for writing.", parent(path))
            }
            Self::NotWritable { .. } => "Set `ansible_become: true`, or log in as root.".to_owned(),
            Self::NoExec { path } => {
                format!("Mount it without `noexec`: `mount -o remount,exec $(findmnt -nT {} -o TARGET)`.", parent(path))
            }
            Self::NoExecutableFor { host, .. } => {
                format!("Name a build for it: `--agent-binary {host}=PATH`.")
            }
            Self::DoesNotRun { .. } => {
                "The build does not fit the host's system: name one that does with `--agent-binary ARCH=PATH`.".to_owned()
            }
            Self::LocalFile { .. } => "Check the path of `--agent-binary`.".to_owned(),
            Self::OtherArchitecture { path, is, .. } => {
                format!("Name it as what it is, `--agent-binary {is}={}`, or name another build.", path.display())
            }
            Self::Upload { .. } => "Run the command again; nothing half-written is left there.".to_owned(),
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder })
}
