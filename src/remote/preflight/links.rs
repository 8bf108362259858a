//! Connections between hosts, tried out. Where a service will listen, one host does so for a moment and another
//! dials it; on that connection they compare clocks and see whether large packets get through. Where the service
//! runs already it is dialled itself, and over TLS where it speaks that.

use crate::{
    remote::{host::Host, http::Tls},
    tls::{self, Client},
};
use futures_util::{StreamExt as _, future::join_all, stream};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a connection may take, and a handshake on it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Doors close by themselves, should the control machine hang.
const OPEN: Duration = Duration::from_secs(30);
/// How long a guest may stay.
const STAY: Duration = Duration::from_secs(10);
/// Dials of one host at the same time.
const AT_ONCE: usize = 64;
/// The quickest of so many looks at a clock is believed.
const LOOKS: usize = 4;
/// More than the largest packets of any network, and sent without waiting for the other side.
const BULK: usize = 32 << 10;
/// Packet sizes of networks with less room than Ethernet's: PPPoE, tunnels, IPv6's least.
const SMALLER: [u32; 6] = [1500, 1492, 1450, 1420, 1380, 1280];

/// The first words of a guest. A service that speaks first, or a stranger that scans, is told by them.
const GREETING: &[u8; 8] = b"pgfleet?";
const WHAT_TIME: u8 = b't';
const TAKE: u8 = b'b';

/// A port to listen on for a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Any that is free when it is 0.
    pub port: u16,
    /// The one address of the service; all of them when none.
    pub address: Option<IpAddr>,
}

/// A port of another host to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    pub address: String,
    pub port: u16,
    pub at: At,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum At {
    /// A door of the host with this name.
    Door(String),
    /// The service itself; with the files for TLS where it speaks that.
    Service { tls: Option<Tls>, is_postgres: bool },
}

/// A connection that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    pub connect_ms: f64,
    /// With a door there is more to be found out.
    pub measured: Option<Measured>,
}

/// What two hosts have found out with each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub round_trip_ms: f64,
    /// How far the other clock is ahead, give or take half of the round trip.
    pub ahead_ms: f64,
    /// The largest packets that are sent this way; unknown for IPv6.
    pub mtu: Option<u32>,
    pub large: Large,
}

/// What becomes of packets of the full size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Large {
    Through,
    /// Small ones arrive and large ones do not. The size that does, where one was found.
    Lost {
        up_to: Option<u32>,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unreached {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("refused")]
    Refused,
    /// Who answers is not the host that was meant.
    #[error("somebody else answers")]
    Stranger,
    #[error("no TLS: {0}")]
    Insecure(String),
    #[error("{0}")]
    Other(String),
}

/// Doors that are open; they close when this is dropped.
#[derive(Default)]
pub(crate) struct Doors(JoinSet<()>);

impl Doors {
    /// Opens doors of the host that the inventory calls `name`. In their order: the port, or why there is none.
    pub async fn open(&mut self, name: &str, doors: &[Door]) -> Vec<Result<u16, String>> {
        let mut opened = Vec::with_capacity(doors.len());
        for door in doors {
            let listener = listen(door).await;
            let port = listener.as_ref().map_err(ToString::to_string).and_then(|listener| {
                listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
            });
            if let Ok(listener) = listener {
                let name = name.to_owned();
                self.0.spawn(async move {
                    tokio::select! {
                        () = receive(listener, &name) => {}
                        () = sleep(OPEN) => {}
                    }
                });
            }
            opened.push(port);
        }
        opened
    }
}

async fn listen(door: &Door) -> io::Result<TcpListener> {
    match door.address {
        Some(address) => TcpListener::bind((address, door.port)).await,
        // Both families where there are both.
        None => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, door.port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, door.port)).await,
        },
    }
}

async fn receive(listener: TcpListener, name: &str) {
    let mut guests = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let name = name.to_owned();
        guests.spawn(async move {
            // A guest that goes away or stays too long is nobody's concern.
            let _ = timeout(STAY, entertain(stream, &name)).await;
        });
    }
}

/// Answers a guest until he leaves: who closes first keeps the port busy for a while, which must not be us.
async fn entertain(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting != *GREETING {
        return Ok(());
    }
    let length = u8::try_from(name.len()).map_err(io::Error::other)?;
    stream.write_all(&[&[length], name.as_bytes()].concat()).await?;
    let mut bulk = vec![0; BULK];
    loop {
        match stream.read_u8().await {
            Ok(WHAT_TIME) => stream.write_i64(jiff::Timestamp::now().as_microsecond()).await?,
            Ok(TAKE) => {
                stream.read_exact(&mut bulk).await?;
                stream.write_all(&bulk).await?;
            }
            _ => return Ok(()),
        }
    }
}

/// Dials them all; the answers come in the same order.
pub(crate) async fn dial(host: &Host, dials: &[Dial]) -> Vec<Result<Reached, Unreached>> {
    stream::iter(dials).map(|dial| dial_one(host, dial)).buffered(AT_ONCE).collect().await
}

async fn dial_one(host: &Host, dial: &Dial) -> Result<Reached, Unreached> {
    let begun = Instant::now();
    let stream = connect(dial, None).await?;
    let connect_ms = milliseconds(begun.elapsed());
    let measured = match &dial.at {
        At::Door(name) => Some(measure(stream, dial, name).await?),
        At::Service { tls, is_postgres } => {
            // A host that is new to the cluster has no files yet.
            let has_files = |tls: &&Tls| tls.ca_path.as_ref().is_some_and(|path| host.path(path).exists());
            if let Some(tls) = tls.as_ref().filter(has_files) {
                let client = tls.client().map_err(|error| Unreached::Insecure(error.to_string()))?;
                let shaken = timeout(PATIENCE, shake_hands(&client, dial, *is_postgres, stream)).await;
                shaken.map_err(|_| Unreached::Silent)?.map_err(Unreached::Insecure)?;
            }
            None
        }
    };
    Ok(Reached { connect_ms, measured })
}

/// A connection; with `mtu`, one whose packets are no larger than that in either direction.
async fn connect(dial: &Dial, mtu: Option<u32>) -> Result<TcpStream, Unreached> {
    let connected = timeout(PATIENCE, async {
        let mut addresses = tokio::net::lookup_host((dial.address.as_str(), dial.port)).await?;
        let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
        let (socket, headers) = match address {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, 40),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, 60),
        };
        socket.set_nodelay(true)?;
        if let Some(mtu) = mtu {
            SockRef::from(&socket).set_tcp_mss(mtu - headers)?;
        }
        socket.connect(address).await
    });
    match connected.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Unreached::Refused),
        Ok(Err(error)) => Err(Unreached::Other(error.to_string())),
        Err(_) => Err(Unreached::Silent),
    }
}

async fn shake_hands(
    client: &Client,
    dial: &Dial,
    is_postgres: bool,
    mut stream: TcpStream,
) -> Result<(), String> {
    if is_postgres && !tls::ask_postgres(&mut stream).await.map_err(|error| error.to_string())? {
        return Err("PostgreSQL speaks none".to_owned());
    }
    client.connect(&dial.address, stream).await.map(drop).map_err(|error| error.to_string())
}

/// Everything that can be found out with a door.
async fn measure(mut stream: TcpStream, dial: &Dial, name: &str) -> Result<Measured, Unreached> {
    let mtu = getsockopt(&stream, sockopt::IpMtu).ok().and_then(|mtu| u32::try_from(mtu).ok());
    let mtu = mtu.filter(|_| stream.peer_addr().is_ok_and(|peer| peer.is_ipv4()));
    let met = timeout(PATIENCE, async {
        greet(&mut stream, name).await?;
        clocks(&mut stream).await
    });
    let (round_trip_ms, ahead_ms) = match met.await {
        Ok(Ok(met)) => met,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(Unreached::Stranger),
        Ok(Err(error)) => return Err(Unreached::Other(error.to_string())),
        Err(_) => return Err(Unreached::Silent),
    };
    // A long way takes some round trips before it is filled.
    let limit = PATIENCE + Duration::from_secs_f64(round_trip_ms * 8.0 / 1000.0);
    let large = match timeout(limit, exchange(&mut stream)).await {
        Ok(Ok(())) => Large::Through,
        _ => {
            let tries =
                SMALLER.map(|size| async move { gets_through(dial, name, size).await.then_some(size) });
            Large::Lost { up_to: join_all(tries).await.into_iter().flatten().max() }
        }
    };
    Ok(Measured { round_trip_ms, ahead_ms, mtu, large })
}

async fn greet(stream: &mut TcpStream, name: &str) -> io::Result<()> {
    let stranger = || io::Error::from(io::ErrorKind::InvalidData);
    stream.write_all(GREETING).await?;
    let length = stream.read_u8().await.map_err(|_| stranger())?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(|_| stranger())?;
    if answer == name.as_bytes() { Ok(()) } else { Err(stranger()) }
}

/// The shortest round trip, and how far the other clock is ahead.
async fn clocks(stream: &mut TcpStream) -> io::Result<(f64, f64)> {
    let mut best = (f64::INFINITY, 0.0);
    for _ in 0..LOOKS {
        let (sent, begun) = (jiff::Timestamp::now().as_microsecond(), Instant::now());
        stream.write_u8(WHAT_TIME).await?;
        let theirs = stream.read_i64().await?;
        let round_trip = milliseconds(begun.elapsed());
        if round_trip < best.0 {
            // The answer was given about in the middle of the round trip.
            best = (round_trip, theirs.saturating_sub(sent) as f64 / 1000.0 - round_trip / 2.0);
        }
    }
    Ok(best)
}

/// Large packets there and back.
async fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut bulk = vec![0; BULK];
    stream.write_u8(TAKE).await?;
    stream.write_all(&bulk).await?;
    stream.read_exact(&mut bulk).await.map(drop)
}

async fn gets_through(dial: &Dial, name: &str, size: u32) -> bool {
    let Ok(mut stream) = connect(dial, Some(size)).await else { return false };
    let tried = async {
        greet(&mut stream, name).await?;
        exchange(&mut stream).await
    };
    timeout(PATIENCE, tried).await.is_ok_and(|tried| tried.is_ok())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    async fn dialled(port: u16, at: At) -> Result<Reached, Unreached> {
        let dials = [Dial { address: "127.0.0.1".to_owned(), port, at }];
        dial(&Host::at("/"), &dials).await.remove(0)
    }

    #[tokio::test]
    async fn two_hosts_meet_at_a_door() {
        let mut doors = Doors::default();
        let any = Door { port: 0, address: HERE };
        let port = doors.open("a", &[any]).await.remove(0).expect("a port");
        let taken = doors.open("a", &[Door { port, address: HERE }]).await.remove(0);
        assert!(taken.expect_err("it is open already").contains("in use"));

        let reached = dialled(port, At::Door("a".to_owned())).await.expect("reached");
        let measured = reached.measured.expect("measured");
        assert_eq!(measured.large, Large::Through);
        assert!(measured.ahead_ms.abs() <= measured.round_trip_ms, "it is the same clock: {measured:?}");
        assert_eq!(measured.mtu, Some(65_535), "the most that a packet of the loopback interface can be");
        assert_eq!(dialled(port, At::Door("b".to_owned())).await, Err(Unreached::Stranger));

        // A dialler leaves first, so that the port is free for the service at once.
        drop(doors);
        tokio::task::yield_now().await;
        assert_eq!(dialled(port, At::Door("a".to_owned())).await, Err(Unreached::Refused));
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    }

    #[tokio::test]
    async fn who_answers_otherwise_is_a_stranger() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            }
        });
        assert_eq!(dialled(port, At::Door("a".to_owned())).await, Err(Unreached::Stranger));
        let service = At::Service { tls: None, is_postgres: false };
        assert!(dialled(port, service).await.is_ok());
        server.abort();
    }

    #[tokio::test]
    async fn large_packets_that_get_lost_are_told_from_small_ones() {
        // What a network does that drops them: the bulk never arrives, unless its packets are small enough.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let size = SockRef::from(&stream).tcp_mss().expect("a size");
                guests.spawn(async move {
                    match size {
                        ..=1410 => entertain(stream, "a").await,
                        _ => entertain_small(stream).await,
                    }
                });
            }
        });
        let reached = dialled(port, At::Door("a".to_owned())).await.expect("small packets arrive");
        assert_eq!(reached.measured.expect("measured").large, Large::Lost { up_to: Some(1450) });
        server.abort();
    }

    async fn entertain_small(mut stream: TcpStream) -> io::Result<()> {
        stream.read_exact(&mut [0; 8]).await?;
        stream.write_all(b"\x01a").await?;
        while stream.read_u8().await? == WHAT_TIME {
            stream.write_i64(jiff::Timestamp::now().as_microsecond()).await?;
        }
        sleep(STAY).await;
        Ok(())
    }
}
