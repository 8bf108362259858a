//! One file on its way from the mirror to the shelf, watched by everybody who wants it.

use super::shelf::{Label, Shelf};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderMap, HeaderName},
};
use hyper_util::rt::TokioIo;
use std::{io, path::PathBuf, time::Duration};
use tokio::{
    fs::File,
    io::AsyncWriteExt,
    net::{TcpStream, lookup_host},
    sync::watch,
    time::timeout,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A mirror that is silent for so long is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// What is passed on of an answer that is not the file.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// How far a download is.
#[derive(Clone, Debug)]
pub enum Stage {
    Asking,
    /// So much of it can be read from a file that grows.
    Arriving {
        label: Label,
        file: PathBuf,
        bytes: u64,
    },
    /// It is on the shelf.
    Kept(Label),
    /// The mirror answered something else than the file.
    Refused {
        status: StatusCode,
        location: Option<String>,
        body: Bytes,
    },
    Failed(String),
}

/// Brings a file to the shelf and tells each step.
pub async fn run(shelf: Shelf, url: String, stage: watch::Sender<Stage>) {
    let known = shelf.label(&url);
    let end = match attempt(&shelf, &url, known.clone(), &stage).await {
        Ok(end) => end,
        // An old index is better than none: packages that it names may be here as well.
        Err(error) => match known {
            Some(label) if !matches!(*stage.borrow(), Stage::Arriving { .. }) => Stage::Kept(label),
            _ => Stage::Failed(error.to_string()),
        },
    };
    stage.send_replace(end);
}

async fn attempt(
    shelf: &Shelf,
    url: &str,
    known: Option<Label>,
    stage: &watch::Sender<Stage>,
) -> io::Result<Stage> {
    let response = timeout(SILENCE_LIMIT, ask(url, known.as_ref())).await.map_err(|_| silent())??;
    match (response.status(), known) {
        (StatusCode::NOT_MODIFIED, Some(label)) => {
            let label = label.confirmed_now();
            shelf.relabel(&label)?;
            Ok(Stage::Kept(label))
        }
        (StatusCode::OK, _) => receive(shelf, url, response, stage).await,
        (status, _) => refused(status, response).await,
    }
}

async fn ask(url: &str, known: Option<&Label>) -> io::Result<Response<Incoming>> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let host = uri.host().ok_or_else(|| io::Error::other("the address has no host"))?;
    let stream = connect(host, uri.port_u16().unwrap_or(80)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut request =
        Request::get(path).header(header::HOST, authority).header(header::USER_AGENT, "pgfleet");
    if let Some(label) = known {
        let conditions =
            [(header::IF_NONE_MATCH, &label.etag), (header::IF_MODIFIED_SINCE, &label.last_modified)];
        for (name, value) in conditions {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    // A machine with half a way to IPv6 is common; one with half a way to IPv4 is not.
    addresses.sort_by_key(|address| address.is_ipv6());
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn receive(
    shelf: &Shelf,
    url: &str,
    response: Response<Incoming>,
    stage: &watch::Sender<Stage>,
) -> io::Result<Stage> {
    let headers = response.headers();
    let announced: Option<u64> = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let mut label = Label {
        url: url.to_owned(),
        length: announced.unwrap_or(0),
        content_type: text(headers, header::CONTENT_TYPE),
        last_modified: text(headers, header::LAST_MODIFIED),
        etag: text(headers, header::ETAG),
        confirmed: 0,
    }
    .confirmed_now();
    let arriving = shelf.arriving(url)?;
    let mut file = File::create(&arriving).await?;
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = timeout(SILENCE_LIMIT, body.frame()).await.map_err(|_| silent())? {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        file.write_all(&data).await?;
        // What is told to be readable must have left the buffer.
        file.flush().await?;
        bytes += data.len() as u64;
        // Without a length nobody can tell a reader how long the file is before it has ended.
        if announced.is_some() {
            stage.send_replace(Stage::Arriving { label: label.clone(), file: arriving.clone(), bytes });
        }
    }
    if announced.is_some_and(|length| length != bytes) {
        return Err(io::Error::other(format!("the mirror sent {bytes} bytes of {}", label.length)));
    }
    label.length = bytes;
    shelf.keep(&arriving, &label)?;
    Ok(Stage::Kept(label))
}

async fn refused(status: StatusCode, response: Response<Incoming>) -> io::Result<Stage> {
    let location = text(response.headers(), header::LOCATION);
    let body = http_body_util::Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Stage::Refused { status, location, body })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the mirror is silent")
}
