//! Answers the hosts' apt: from the shelf, or from a download that several may share.

use super::{
    download::{self, Stage},
    shelf::{Label, Shelf},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{fs::File, io::AsyncReadExt, net::TcpListener, sync::watch};

const CHUNK: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Downloads = Mutex<HashMap<String, watch::Receiver<Stage>>>;

/// The cache of one sandbox.
struct Proxy {
    shelf: Shelf,
    downloads: Downloads,
}

/// Serves the cache in `directory` at an address until it is ended. Needs a Tokio runtime.
pub async fn serve(listen: SocketAddr, directory: PathBuf) -> io::Result<()> {
    let proxy = Arc::new(Proxy { shelf: Shelf::open(directory)?, downloads: Downloads::default() });
    let listener = TcpListener::bind(listen).await?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of file descriptors: those in use are given back soon.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let proxy = Arc::clone(&proxy);
                async move { Ok::<_, Infallible>(proxy.answer(request).await) }
            });
            // A host that lost its power leaves its connection in pieces; that concerns nobody else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let uri = request.uri();
        if request.method() != Method::GET || uri.scheme_str() != Some("http") || uri.host().is_none() {
            let why = "this is a proxy for apt: it answers GET of http:// addresses\n";
            return plain(StatusCode::METHOD_NOT_ALLOWED, None, why.into());
        }
        let url = uri.to_string();
        let seen = request.headers().get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        if let Some(label) = self.shelf.label(&url).filter(Label::is_fresh) {
            return self.kept(&label, seen).await;
        }
        let mut stage = self.download(&url);
        let reached =
            stage.wait_for(|stage| !matches!(stage, Stage::Asking)).await.map(|stage| stage.clone());
        match reached {
            Ok(Stage::Kept(label)) => self.kept(&label, seen).await,
            Ok(Stage::Arriving { label, file, .. }) => {
                // It may have arrived and moved since.
                let opened = match File::open(&file).await {
                    Ok(opened) => Ok(opened),
                    Err(_) => File::open(self.shelf.content(&url)).await,
                };
                match opened {
                    Ok(opened) => whole(&label, follow(opened, stage)),
                    Err(error) => unavailable(&error.to_string()),
                }
            }
            Ok(Stage::Refused { status, location, body }) => plain(status, location, body),
            Ok(Stage::Failed(why)) => unavailable(&why),
            Ok(Stage::Asking) | Err(_) => unavailable("the download ended early"),
        }
    }

    /// The running download of a URL, started if there is none.
    fn download(&self, url: &str) -> watch::Receiver<Stage> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is on the shelf, or is worth another attempt.
        downloads.retain(|_, stage| stage.has_changed().is_ok());
        if let Some(running) = downloads.get(url) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(Stage::Asking);
        tokio::spawn(download::run(self.shelf.clone(), url.to_owned(), sender));
        downloads.insert(url.to_owned(), receiver.clone());
        receiver
    }

    async fn kept(&self, label: &Label, seen: Option<&str>) -> Response<Body> {
        if seen.is_some() && seen == label.last_modified.as_deref() {
            return plain(StatusCode::NOT_MODIFIED, None, Bytes::new());
        }
        match File::open(self.shelf.content(&label.url)).await {
            Ok(file) => {
                let (_, ended) = watch::channel(Stage::Kept(label.clone()));
                whole(label, follow(file, ended))
            }
            Err(error) => unavailable(&error.to_string()),
        }
    }
}

/// The content of a file that may still grow; an error if it stops growing before its end.
fn follow(file: File, stage: watch::Receiver<Stage>) -> Body {
    let parts = stream::try_unfold((file, stage, 0u64), |(mut file, mut stage, sent)| async move {
        let readable = stage.wait_for(|stage| match stage {
            Stage::Arriving { bytes, .. } => *bytes > sent,
            _ => true,
        });
        let available = match readable.await.as_deref() {
            Ok(Stage::Arriving { bytes, .. }) => *bytes,
            Ok(Stage::Kept(label)) => label.length,
            Ok(Stage::Failed(why)) => return Err(io::Error::other(why.clone())),
            _ => return Err(io::Error::other("the download ended early")),
        };
        let wanted = usize::try_from(available - sent).map_or(CHUNK, |rest| rest.min(CHUNK));
        if wanted == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; wanted];
        let read = file.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        chunk.truncate(read);
        Ok(Some((Frame::data(Bytes::from(chunk)), (file, stage, sent + read as u64))))
    });
    StreamBody::new(parts).boxed_unsync()
}

fn whole(label: &Label, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, label.length.into());
    for (name, value) in
        [(header::CONTENT_TYPE, &label.content_type), (header::LAST_MODIFIED, &label.last_modified)]
    {
        if let Some(value) = value.as_deref().and_then(|value| value.parse().ok()) {
            headers.insert(name, value);
        }
    }
    response
}

fn plain(status: StatusCode, location: Option<String>, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    if let Some(location) = location.and_then(|location| location.parse().ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn unavailable(why: &str) -> Response<Body> {
    plain(StatusCode::BAD_GATEWAY, None, format!("{why}\n").into())
}
