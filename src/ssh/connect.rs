//! From a target to an authenticated session: name, TCP or jump host, key exchange, authentication.
//!
//! Owns what the connections of a run share: sessions to jump hosts, keys that were read, and a limit on
//! how many handshakes one endpoint sees at once (sshd drops some from the eleventh on).

use super::{
    auth,
    config::{self, Proxy, Route},
    error::{ConnectError, ConnectProblem},
    host_key::{Gate, GateError, Lost, plain},
    identity::KeyCache,
    session::Session,
    target::{Options, Target},
};
use crate::model::HostName;
use russh::client::{self, Handle};
use std::{
    collections::HashMap,
    io,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OnceCell, Semaphore},
    time::{Instant, sleep, timeout},
};

/// sshd's `MaxStartups` begins to drop connections at ten that are not authenticated yet.
const HANDSHAKES_PER_ENDPOINT: usize = 8;

/// A server that drops us before it says anything is asked again this often.
const EARLY_CLOSE_RETRIES: u32 = 4;

/// Jump hosts of jump hosts end somewhere; what does not is a loop in ssh_config.
const DEEPEST_JUMP: usize = 8;

type Jump = Arc<OnceCell<Result<Session, Arc<ConnectError>>>>;

/// What the connections of one run share.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    jumps: Arc<Mutex<HashMap<String, Jump>>>,
    endpoints: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    pub(super) keys: KeyCache,
}

impl Shared {
    fn endpoint(&self, endpoint: &str) -> Arc<Semaphore> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = || Arc::new(Semaphore::new(HANDSHAKES_PER_ENDPOINT));
        endpoints.entry(endpoint.to_owned()).or_insert_with(limit).clone()
    }

    fn jump(&self, chain: &str) -> Jump {
        let mut jumps = self.jumps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(session)) = jumps.get(chain).and_then(|cell| cell.get())
            && session.is_closed()
        {
            jumps.remove(chain);
        }
        jumps.entry(chain.to_owned()).or_default().clone()
    }

    /// Those that wait for the same jump host learn of its failure; who comes later tries anew.
    fn forget_jump(&self, chain: &str) {
        self.jumps.lock().unwrap_or_else(PoisonError::into_inner).remove(chain);
    }
}

/// Any stream that SSH can run over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Session {
    /// Connects to `target` and authenticates. Everything that can be wrong on the way is told apart in
    /// [`ConnectProblem`]; nothing on the host has been changed when this fails.
    pub async fn connect(target: &Target, options: &Options) -> Result<Session, ConnectError> {
        connect_at_depth(target, options, 0).await.map_err(|problem| ConnectError::new(&target.name, problem))
    }
}

async fn connect_at_depth(
    target: &Target,
    options: &Options,
    depth: usize,
) -> Result<Session, ConnectProblem> {
    if depth > DEEPEST_JUMP {
        return Err(ConnectProblem::Config("its jump hosts lead in a circle".to_owned()));
    }
    let route = config::resolve(target, options).await?;
    let hops = match &route.proxy {
        Proxy::Jump(hops) => hops.clone(),
        Proxy::None | Proxy::Command(_) => Vec::new(),
    };
    connect_over(target, &route, &hops, options, depth).await
}

/// Connects to `target` by way of `hops`, or directly when there are none.
async fn connect_over(
    target: &Target,
    route: &Route,
    hops: &[String],
    options: &Options,
    depth: usize,
) -> Result<Session, ConnectProblem> {
    let jump = match hops {
        [] => None,
        hops => Some(Box::pin(jump_session(hops, options, depth + 1)).await?),
    };
    let gate_of_endpoint = options.shared.endpoint(&route.endpoint());
    let permit = gate_of_endpoint.acquire().await;
    let mut attempt = 0;
    loop {
        match establish(target, route, jump.as_ref(), options).await {
            Err(ConnectProblem::ClosedEarly { .. }) if attempt < EARLY_CLOSE_RETRIES => {
                attempt += 1;
                sleep(
                    Duration::from_millis(u64::from(rand::random::<u8>()))
                        + Duration::from_millis(200) * attempt,
                )
                .await;
            }
            result => {
                drop(permit);
                return result;
            }
        }
    }
}

/// The shared session to the last of `hops`.
async fn jump_session(hops: &[String], options: &Options, depth: usize) -> Result<Session, ConnectProblem> {
    let chain = hops.join(",");
    let cell = options.shared.jump(&chain);
    let connect = async || {
        let result = connect_hop(hops, options, depth).await.map_err(Arc::new);
        if result.is_err() {
            options.shared.forget_jump(&chain);
        }
        result
    };
    match cell.get_or_init(connect).await {
        Ok(session) => Ok(session.clone()),
        Err(error) => Err(ConnectProblem::Jump(error.clone())),
    }
}

async fn connect_hop(hops: &[String], options: &Options, depth: usize) -> Result<Session, ConnectError> {
    let last = hops.last().map_or("", String::as_str);
    let unnamed = |problem| {
        // A jump host need not bear a name that we would give a host.
        let name = last.rsplit('@').next().unwrap_or(last).to_owned();
        let fallback = || "jump-host".parse::<HostName>();
        name.parse().or_else(|_| fallback()).map(|name| ConnectError::new(&name, problem))
    };
    let result = async {
        let (user, host, port) = config::parse_hop(last)?;
        let name = host.parse().or_else(|_| "jump-host".parse());
        let name: HostName = name.map_err(|error| ConnectProblem::Config(format!("{error}")))?;
        let target = Target { user, port, ..Target::new(name, host) };
        if hops.len() == 1 {
            return connect_at_depth(&target, options, depth).await;
        }
        let route = config::resolve(&target, options).await?;
        connect_over(&target, &route, &hops[..hops.len() - 1], options, depth).await
    };
    result.await.map_err(|problem| match unnamed(problem) {
        Ok(error) => error,
        Err(_) => unreachable!("`jump-host` is a valid name"),
    })
}

async fn establish(
    target: &Target,
    route: &Route,
    jump: Option<&Session>,
    options: &Options,
) -> Result<Session, ConnectProblem> {
    let gate = Gate::new(route)?;
    let lost = gate.lost.clone();
    let deadline = Instant::now() + options.connect_timeout;
    let expired =
        |stage| ConnectProblem::TimedOut { to: route.endpoint(), after: options.connect_timeout, stage };

    let wire = timeout(deadline - Instant::now(), dial(target, route, jump))
        .await
        .map_err(|_| expired("connecting"))??;
    let handshake = exchange_keys(wire, gate, route, options);
    let mut handle =
        timeout(deadline - Instant::now(), handshake).await.map_err(|_| expired("exchanging keys"))??;
    // Bounded step by step: a passphrase or an agent's confirmation may take its time.
    auth::authenticate(&mut handle, route, target, options).await?;
    Ok(Session::new(target, route.clone(), handle, lost, jump.cloned()))
}

async fn dial(
    target: &Target,
    route: &Route,
    jump: Option<&Session>,
) -> Result<Box<dyn Wire>, ConnectProblem> {
    if let Some(jump) = jump {
        return match jump.tunnel(&route.hostname, route.port).await {
            Ok(tunnel) => Ok(Box::new(tunnel)),
            Err(error) => Err(ConnectProblem::BehindJump {
                jump: jump.host().to_string(),
                to: route.endpoint(),
                why: error.problem.to_string(),
            }),
        };
    }
    if let Proxy::Command(command) = &route.proxy {
        return proxy_command(&config::expand_proxy_command(command, route, &target.address));
    }
    dial_tcp(route).await.map(|stream| Box::new(stream) as Box<dyn Wire>)
}

async fn dial_tcp(route: &Route) -> Result<TcpStream, ConnectProblem> {
    let addresses = tokio::net::lookup_host((route.hostname.as_str(), route.port))
        .await
        .map_err(|source| ConnectProblem::UnknownName { name: route.hostname.clone(), source })?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    let to = route.endpoint();
    Err(match last.kind() {
        io::ErrorKind::ConnectionRefused => ConnectProblem::Refused { to },
        io::ErrorKind::TimedOut => {
            ConnectProblem::TimedOut { to, after: Duration::from_secs(0), stage: "connecting" }
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ConnectProblem::NoRoute { to, source: last }
        }
        io::ErrorKind::NotFound => ConnectProblem::UnknownName { name: route.hostname.clone(), source: last },
        _ => ConnectProblem::Network { to, source: last },
    })
}

fn proxy_command(command: &str) -> Result<Box<dyn Wire>, ConnectProblem> {
    let failed = |why: String| ConnectProblem::ProxyCommand { command: command.to_owned(), why };
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", &format!("exec {command}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(output), Some(input)) => Ok(Box::new(tokio::io::join(output, input))),
        _ => Err(failed("it has no standard input or output".to_owned())),
    }
}

async fn exchange_keys(
    wire: Box<dyn Wire>,
    gate: Gate,
    route: &Route,
    options: &Options,
) -> Result<Handle<Gate>, ConnectProblem> {
    let lost: Lost = gate.lost.clone();
    let config = client::Config {
        preferred: gate.preferred(),
        keepalive_interval: Some(options.keepalive),
        keepalive_max: 3,
        nodelay: true,
        ..client::Config::default()
    };
    let to = route.endpoint();
    client::connect_stream(Arc::new(config), wire, gate).await.map_err(|error| match error {
        GateError::HostKey(problem) => problem,
        GateError::Ssh(russh::Error::NoCommonAlgo { kind, theirs, .. }) => {
            ConnectProblem::NoCommonAlgorithm {
                to,
                kind: format!("{kind:?}").to_lowercase(),
                theirs: theirs.join(", "),
            }
        }
        GateError::Ssh(russh::Error::Version) => ConnectProblem::NotSsh { to },
        GateError::Ssh(error) if closed_early(&error) => match &route.proxy {
            Proxy::Command(command) => ConnectProblem::ProxyCommand {
                command: command.clone(),
                why: "it gave no connection".to_owned(),
            },
            _ => ConnectProblem::ClosedEarly { to },
        },
        GateError::Ssh(russh::Error::Disconnect) => ConnectProblem::Ended { to, why: lost.why() },
        GateError::Ssh(error) => ConnectProblem::Ended { to, why: plain(&error) },
    })
}

/// Whether the server went away without having said why.
fn closed_early(error: &russh::Error) -> bool {
    match error {
        russh::Error::HUP => true,
        russh::Error::IO(error) => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}
