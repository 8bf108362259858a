//! The sockets of the REST API, with and without TLS.

use crate::{agent::config::Address, tls};
use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

/// Who doesn't finish a handshake in this time is no client.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Opens the sockets of `listen`: one address, several separated by commas, or `*`. One of `kept` that is what is
/// wanted is taken instead of a new one.
pub async fn bind(listen: &Address, mut kept: Vec<std::net::TcpListener>) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for host in listen.host.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let listener = open(host, listen.port, &mut kept).await;
        listeners.push(listener.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {host}:{}: {error}", listen.port))
        })?);
    }
    Ok(listeners)
}

async fn open(host: &str, port: u16, kept: &mut Vec<std::net::TcpListener>) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = match host {
        // The second for a machine without IPv6.
        "*" => vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()],
        host => lookup_host((host, port)).await?.collect(),
    };
    let wanted = |kept: &std::net::TcpListener| kept.local_addr().is_ok_and(|at| addresses.contains(&at));
    match kept.iter().position(wanted) {
        Some(index) => {
            let listener = kept.swap_remove(index);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
        None => TcpListener::bind(&addresses[..]).await,
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// It has shown a certificate of the authority that is trusted.
    pub certified: bool,
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(_stream: IncomingStream<'_, TcpListener>) -> Self {
        Peer { certified: false }
    }
}

impl Connected<IncomingStream<'_, Secured>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Secured>) -> Self {
        Peer { certified: stream.io().get_ref().1.peer_certificates().is_some() }
    }
}

/// Connections whose handshake is over. A client that is slow at it keeps no other waiting.
pub(super) struct Secured {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    /// Ends with the listener.
    _taking: JoinSet<()>,
}

impl Secured {
    pub(super) fn new(listener: TcpListener, tls: Arc<tls::Server>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (done, ready) = mpsc::channel(16);
        let mut taking = JoinSet::new();
        taking.spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else {
                    // Out of file descriptors, most likely: some may be free again soon.
                    sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (tls, done) = (Arc::clone(&tls), done.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                        let _ = done.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { address, ready, _taking: taking })
    }
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
