//! What OpenSSH's configuration says of a host, by asking OpenSSH itself (`ssh -G`).
//!
//! Owns the merge of the inventory's word, ssh_config and the defaults. It parses no ssh_config of its
//! own: `Match`, `Include` and tokens mean what the installed client takes them to mean.

use super::{
    error::ConnectProblem,
    target::{Options, Target},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Everything that it takes to get to one host, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub hostname: String,
    pub port: u16,
    pub user: String,
    /// Private keys in the order in which they are offered.
    pub identities: Vec<PathBuf>,
    /// Offer no key of the agent besides those.
    pub identities_only: bool,
    pub agent: Option<PathBuf>,
    pub known_hosts: Vec<PathBuf>,
    /// The name under which known_hosts has the host, where it is another than `hostname`.
    pub host_key_alias: Option<String>,
    pub accept_new: bool,
    pub hash_known_hosts: bool,
    pub proxy: Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    None,
    /// Hosts to go through, first the one that is reached first: `[user@]host[:port]`.
    Jump(Vec<String>),
    /// A command whose standard input and output are the connection.
    Command(String),
}

impl Route {
    /// `user@host:port`, for messages.
    pub fn destination(&self) -> String {
        format!("{}@{}:{}", self.user, self.hostname, self.port)
    }

    /// `host:port`, for messages.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.hostname, self.port)
    }
}

/// Settles the way to `target`.
pub async fn resolve(target: &Target, options: &Options) -> Result<Route, ConnectProblem> {
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
    let said = if options.use_ssh_config || !target.ssh_args.is_empty() {
        ask_openssh(target, options).await?
    } else {
        None
    };
    Ok(merge(target, options, &said.unwrap_or_default(), &home))
}

/// The arguments that make OpenSSH's client reach `target` in the same way; the host comes last.
pub fn openssh_arguments(target: &Target, options: &Options) -> Vec<String> {
    let mut words = Vec::new();
    if !options.use_ssh_config {
        words.extend(["-F", "none"].map(str::to_owned));
    }
    if let Some(file) = &options.known_hosts {
        words.extend(["-o".to_owned(), format!("UserKnownHostsFile={}", file.display())]);
        words.extend(["-o".to_owned(), "GlobalKnownHostsFile=/dev/null".to_owned()]);
    }
    if options.accept_new_host_keys || target.accept_new_host_key {
        words.extend(["-o".to_owned(), "StrictHostKeyChecking=accept-new".to_owned()]);
    }
    if let Some(identity) = options.identity.as_ref().or(target.identity.as_ref()) {
        words.extend(["-i".to_owned(), identity.display().to_string()]);
    }
    if options.identity.is_some() {
        words.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
    }
    if let Some(port) = target.port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &target.user {
        words.extend(["-l".to_owned(), user.clone()]);
    }
    words.extend(target.ssh_args.iter().cloned());
    words.push(target.address.clone());
    words
}

/// The answer of `ssh -G`, keyword by keyword; `None` when OpenSSH's client is not installed.
async fn ask_openssh(target: &Target, options: &Options) -> Result<Option<Answer>, ConnectProblem> {
    // A name that starts with a dash would be taken for an option.
    if target.address.starts_with('-') {
        return Err(ConnectProblem::Config(format!("`{}` is not a host name", target.address)));
    }
    let output = tokio::process::Command::new("ssh")
        .arg("-G")
        .args(openssh_arguments(target, options))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => {
            Ok(Some(parse_answer(&String::from_utf8_lossy(&output.stdout))))
        }
        Ok(output) => {
            Err(ConnectProblem::Config(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if target.ssh_args.is_empty() {
                return Ok(None);
            }
            let words = target.ssh_args.join(" ");
            Err(ConnectProblem::Config(format!(
                "`{words}` needs OpenSSH's client, and `ssh` is not installed"
            )))
        }
        Err(error) => Err(ConnectProblem::Config(format!("`ssh -G` does not run: {error}"))),
    }
}

/// Keywords in lower case, each with its values in order.
type Answer = HashMap<String, Vec<String>>;

fn parse_answer(text: &str) -> Answer {
    let mut answer = Answer::new();
    for line in text.lines() {
        if let Some((keyword, value)) = line.split_once(' ') {
            answer.entry(keyword.to_lowercase()).or_default().push(value.trim().to_owned());
        }
    }
    answer
}

fn merge(target: &Target, options: &Options, said: &Answer, home: &Path) -> Route {
    let one = |keyword: &str| said.get(keyword).and_then(|values| values.first()).map(String::as_str);
    let some = |keyword: &str| one(keyword).filter(|value| !value.eq_ignore_ascii_case("none"));
    let path = |text: &str| match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(text),
    };
    let files = |keyword: &str, defaults: &[&str]| -> Vec<PathBuf> {
        match one(keyword) {
            Some(text) => text.split_ascii_whitespace().filter(|word| *word != "none").map(path).collect(),
            None => defaults.iter().map(|text| path(text)).collect(),
        }
    };

    let mut known_hosts = files("userknownhostsfile", &["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]);
    known_hosts
        .extend(files("globalknownhostsfile", &["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]));
    if let Some(file) = &options.known_hosts {
        known_hosts = vec![file.clone()];
    }

    let mut identities: Vec<PathBuf> = match (&options.identity, said.get("identityfile")) {
        (Some(identity), _) => vec![identity.clone()],
        (None, Some(files)) => files.iter().map(|text| path(text)).collect(),
        (None, None) => ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(".ssh").join(name)).into(),
    };
    if let (None, Some(identity)) = (&options.identity, &target.identity) {
        identities.retain(|other| other != identity);
        identities.insert(0, identity.clone());
    }

    Route {
        hostname: one("hostname").unwrap_or(&target.address).to_owned(),
        port: target.port.or_else(|| one("port")?.parse().ok()).unwrap_or(22),
        user: target.user.clone().or_else(|| one("user").map(str::to_owned)).unwrap_or_else(login_name),
        identities,
        identities_only: options.identity.is_some() || one("identitiesonly") == Some("yes"),
        agent: match one("identityagent") {
            None | Some("SSH_AUTH_SOCK") => options.agent.clone(),
            Some("none") => None,
            Some(variable) if variable.starts_with('$') => {
                std::env::var_os(variable.trim_matches(['$', '{', '}'])).map(PathBuf::from)
            }
            Some(socket) => Some(path(socket)),
        },
        known_hosts,
        host_key_alias: some("hostkeyalias").map(str::to_owned),
        accept_new: options.accept_new_host_keys
            || target.accept_new_host_key
            || matches!(one("stricthostkeychecking"), Some("accept-new" | "no" | "off" | "false")),
        hash_known_hosts: options.known_hosts.is_none() && one("hashknownhosts") == Some("yes"),
        proxy: match (some("proxyjump"), some("proxycommand")) {
            (Some(hops), _) => Proxy::Jump(hops.split(',').map(|hop| hop.trim().to_owned()).collect()),
            (None, Some(command)) => Proxy::Command(command.to_owned()),
            (None, None) => Proxy::None,
        },
    }
}

/// Puts the host, port and user into a ProxyCommand's `%h`, `%p`, `%r` and `%n`.
pub fn expand_proxy_command(command: &str, route: &Route, address: &str) -> String {
    let mut text = String::new();
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (character, character == '%') {
            (_, true) => match characters.next() {
                Some('h') => text.push_str(&route.hostname),
                Some('p') => text.push_str(&route.port.to_string()),
                Some('r') => text.push_str(&route.user),
                Some('n') => text.push_str(address),
                Some('%') => text.push('%'),
                Some(other) => text.extend(['%', other]),
                None => text.push('%'),
            },
            (character, false) => text.push(character),
        }
    }
    text
}

/// Takes `[user@]host[:port]` or `ssh://[user@]host[:port]` apart.
pub fn parse_hop(hop: &str) -> Result<(Option<String>, String, Option<u16>), ConnectProblem> {
    let invalid =
        || ConnectProblem::Config(format!("`{hop}` is not a jump host; expected [user@]host[:port]"));
    let text = hop.strip_prefix("ssh://").unwrap_or(hop).trim_end_matches('/');
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, text),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(invalid)?;
            (host, after.strip_prefix(':'))
        }
        // More than one colon without brackets is an IPv6 address.
        None => match place.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (place, None),
        },
    };
    if host.is_empty() {
        return Err(invalid());
    }
    let port = port.map(|port| port.parse().map_err(|_| invalid())).transpose()?;
    Ok((user, host.to_owned(), port))
}

fn login_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map(|user| user.name)
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| "root".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::new("pg1".parse().expect("a name"), "10.0.0.1")
    }

    fn options() -> Options {
        Options { agent: None, ..Options::default() }
    }

    const SAID: &str = "host pg1\nuser deploy\nhostname 10.9.9.9\nport 2200\nidentityfile ~/.ssh/team\n\
        identityfile /etc/other\nuserknownhostsfile ~/.ssh/known_hosts /srv/known\n\
        globalknownhostsfile /etc/ssh/ssh_known_hosts\nproxyjump bastion,ops@inner:2222\nhashknownhosts yes\n\
        stricthostkeychecking ask\nidentityagent none\n";

    #[test]
    fn the_inventory_speaks_before_ssh_config_and_that_before_the_defaults() {
        let said = parse_answer(SAID);
        let route = merge(&target(), &options(), &said, Path::new("/home/me"));
        assert_eq!(route.destination(), "deploy@10.9.9.9:2200");
        assert_eq!(route.identities, [Path::new("/home/me/.ssh/team"), Path::new("/etc/other")]);
        assert_eq!(route.known_hosts[1], Path::new("/srv/known"));
        assert_eq!(route.proxy, Proxy::Jump(vec!["bastion".to_owned(), "ops@inner:2222".to_owned()]));
        assert!(!route.accept_new && route.hash_known_hosts && route.agent.is_none());

        let mut named = target();
        (named.port, named.user, named.identity) = (Some(22), Some("root".to_owned()), Some("/k".into()));
        let route = merge(&named, &options(), &said, Path::new("/home/me"));
        assert_eq!(
            (route.port, route.user.as_str(), route.identities[0].as_path()),
            (22, "root", Path::new("/k"))
        );

        let route = merge(&target(), &options(), &Answer::new(), Path::new("/home/me"));
        assert_eq!((route.endpoint().as_str(), route.identities.len()), ("10.0.0.1:22", 3));
    }

    #[test]
    fn an_isolated_run_uses_nothing_of_the_user() {
        let options = Options::isolated("/s/key".into(), "/s/known".into());
        let route = merge(&target(), &options, &Answer::new(), Path::new("/home/me"));
        assert_eq!(
            (route.identities.as_slice(), route.known_hosts.as_slice()),
            (&["/s/key".into()][..], &["/s/known".into()][..])
        );
        assert!(route.identities_only && route.agent.is_none());
    }

    #[test]
    fn takes_jump_hosts_apart() {
        let parts = |hop| {
            parse_hop(hop)
                .map(|(user, host, port)| format!("{user:?} {host} {port:?}"))
                .unwrap_or_else(|e| e.to_string())
        };
        insta::assert_snapshot!(["b", "u@b:2222", "ssh://u@b", "[fe80::1]:22", "fe80::1", "b:x", "u@"].map(parts).join("\n"), @r#"
        None b None
        Some("u") b Some(2222)
        Some("u") b None
        None fe80::1 Some(22)
        None fe80::1 None
        ssh_config is not usable: `b:x` is not a jump host; expected [user@]host[:port]
        ssh_config is not usable: `u@` is not a jump host; expected [user@]host[:port]
        "#);
    }

    #[test]
    fn expands_the_tokens_of_a_proxy_command() {
        let route = merge(&target(), &options(), &Answer::new(), Path::new("/"));
        assert_eq!(
            expand_proxy_command("nc -X %h %p 100%% %n %q", &route, "pg1"),
            "nc -X 10.0.0.1 22 100% pg1 %q"
        );
    }
}
