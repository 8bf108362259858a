//! The HTTP server around [`route`]: reads requests, checks who asks, writes answers.

use super::{
    Content, Now, Operation, OperatorRequest, Reply, Request, Routed, hold,
    listen::{Peer, Secured},
    route::{is_unsafe, route},
};
use crate::{agent::view::View, tls};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Query, State},
    http::{self, HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{collections::BTreeMap, io, sync::Arc};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// How the API is served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub extra_headers: BTreeMap<String, String>,
    /// Without it: plain text.
    pub tls: Option<Arc<tls::Server>>,
}

/// A configuration document is a few kilobytes.
const LONGEST_BODY: usize = 1 << 20;

struct Server {
    view: watch::Receiver<Arc<View>>,
    requests: mpsc::Sender<OperatorRequest>,
    extra_headers: HeaderMap,
    /// Unsafe requests need a client's certificate; then a password neither helps nor is asked for.
    certificates: bool,
}

/// Serves until it is dropped. Health checks are answered from the view; the rest goes to the loop.
pub async fn serve(
    listeners: Vec<TcpListener>,
    view: watch::Receiver<Arc<View>>,
    requests: mpsc::Sender<OperatorRequest>,
    options: Options,
) -> io::Result<()> {
    let extra_headers = options.extra_headers.iter().filter_map(|(name, value)| {
        Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
    });
    let server = Arc::new(Server {
        view,
        requests,
        extra_headers: extra_headers.collect(),
        certificates: options.tls.as_ref().is_some_and(|tls| tls.asks_clients()),
    });
    let router = Router::new().fallback(handle).with_state(server);
    let mut serving = JoinSet::new();
    for listener in listeners {
        let service = router.clone().into_make_service_with_connect_info::<Peer>();
        match options.tls.clone() {
            Some(tls) => {
                let listener = Secured::new(listener, tls)?;
                serving.spawn(async move { axum::serve(listener, service).await })
            }
            None => serving.spawn(async move { axum::serve(listener, service).await }),
        };
    }
    while let Some(ended) = serving.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn handle(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: http::Request<Body>,
) -> Response {
    let reply = server.answer(peer, request).await;
    server.write(reply)
}

impl Server {
    async fn answer(&self, peer: Peer, request: http::Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let method = head.method.as_str();
        if is_unsafe(method)
            && let Some(refusal) = self.refuse(peer, &head.headers)
        {
            return refusal;
        }
        let has_body = head.headers.contains_key(header::CONTENT_LENGTH)
            || head.headers.contains_key(header::TRANSFER_ENCODING);
        let body = match axum::body::to_bytes(body, LONGEST_BODY).await {
            Ok(body) => has_body.then_some(body),
            Err(_) => return Reply::text(400, "the body cannot be read, or is too long"),
        };
        let query = Query::<Vec<(String, String)>>::try_from_uri(&head.uri).map(|Query(pairs)| pairs);
        let query = query.unwrap_or_default();
        let request = Request { method, path: head.uri.path(), query: &query, body: body.as_deref() };
        let held_until = hold::patience(&head.headers).map(|patience| Instant::now() + patience);
        let mut views = self.view.clone();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            match (route(request, &view, Now::read()), held_until) {
                (Routed::Ask(operation), _) => return self.ask(operation).await,
                (Routed::Reply(reply), Some(end)) if reply.status == 503 => {
                    let Ok(Ok(())) = timeout_at(end, views.changed()).await else { return reply };
                }
                (Routed::Reply(reply), _) => return reply,
            }
        }
    }

    /// Has the agent's loop do something.
    async fn ask(&self, operation: Operation) -> Reply {
        let (reply, outcome) = oneshot::channel();
        if self.requests.send(OperatorRequest { operation, reply }).await.is_err() {
            return Reply::text(503, "the agent is stopping");
        }
        match outcome.await {
            Ok(outcome) => outcome.into_reply(),
            Err(_) => Reply::text(503, "the agent could not say how it ended; look at /cluster"),
        }
    }

    /// The answer to somebody who may not change anything.
    fn refuse(&self, peer: Peer, headers: &HeaderMap) -> Option<Reply> {
        let has_login = headers.contains_key(header::AUTHORIZATION);
        match (peer.certified, self.certificates) {
            (true, _) => None,
            (false, true) => Some(Reply::text(403, "client certificate required")),
            (false, false) if self.may(headers) => None,
            _ if has_login => Some(Reply::text(401, "not authenticated")),
            _ => Some(Reply::text(401, "no auth header received")),
        }
    }

    /// Whether the request carries the name and password that are configured, if any are.
    fn may(&self, headers: &HeaderMap) -> bool {
        let view = Arc::clone(&self.view.borrow());
        let Some((username, password)) = &view.login else { return true };
        let expected = STANDARD.encode(format!("{username}:{}", password.expose()));
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, credentials)| {
            scheme.eq_ignore_ascii_case("basic") && same(credentials.trim().as_bytes(), expected.as_bytes())
        })
    }

    fn write(&self, reply: Reply) -> Response {
        let (kind, body) = match reply.content {
            Content::Nothing => (None, Body::empty()),
            Content::Text(text) => (Some("text/plain; charset=utf-8"), Body::from(text)),
            Content::Json(value) => (Some("application/json"), Body::from(value.to_string())),
            Content::Metrics(text) => (Some("text/plain; version=0.0.4; charset=utf-8"), Body::from(text)),
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.extend(self.extra_headers.clone());
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if reply.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"pgfleet\""));
        }
        response
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
