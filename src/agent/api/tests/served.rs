//! The API over its sockets: requests that are held, passwords, sockets that outlive their agent.

use super::*;
use crate::agent::config::Address;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};

/// A served API and a way to change what it knows.
async fn served(view: View) -> (u16, watch::Sender<Arc<View>>, mpsc::Receiver<OperatorRequest>) {
    let listeners = bind(&Address { host: "127.0.0.1".to_owned(), port: 0 }, Vec::new()).await.unwrap();
    let port = listeners[0].local_addr().unwrap().port();
    let (views, view) = watch::channel(Arc::new(view));
    let (requests, received) = mpsc::channel(4);
    let extra_headers = [("x-site".to_owned(), "a".to_owned())].into();
    tokio::spawn(serve(listeners, view, requests, Options { extra_headers, tls: None }));
    (port, views, received)
}

#[tokio::test]
async fn sockets_that_were_kept_are_taken_and_others_closed() {
    let kept = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (wanted, other) = (kept(), kept());
    let (address, foreign) = (wanted.local_addr().unwrap(), other.local_addr().unwrap());
    // Who asks while no agent listens is not lost.
    let early = std::net::TcpStream::connect(address).unwrap();
    let listen = Address { host: "127.0.0.1".to_owned(), port: address.port() };
    let listeners = bind(&listen, vec![other, wanted]).await.unwrap();
    let (_stream, peer) = listeners[0].accept().await.unwrap();
    assert_eq!((listeners.len(), peer), (1, early.local_addr().unwrap()));
    assert!(TcpStream::connect(foreign).await.is_err(), "nobody listens there any more");
}

async fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn answers_health_checks_over_http() {
    let now = BootTime::now();
    let leads = changed(primary(), |view| view.leader_until = Some(now.after(Duration::from_secs(60))));
    let (port, views, _requests) = served(leads).await;
    let answer = http(port, "GET /primary HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("x-site: a\r\n") && answer.contains("content-type: application/json\r\n"),
        "{answer}"
    );
    let answer = http(port, "OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    views.send_replace(Arc::new(changed(primary(), |view| view.leader_until = Some(now))));
    let answer = http(port, "GET /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
}

#[tokio::test]
async fn who_holds_the_server_to_be_down_is_told_when_it_is_up() {
    let now = BootTime::now();
    let leads = changed(primary(), |view| view.leader_until = Some(now.after(Duration::from_secs(60))));
    let follows = changed(primary(), |view| view.leader_until = Some(now));
    let (port, views, _requests) = served(follows).await;
    let ask = |state: &str| {
        let headers = format!("X-Haproxy-Server-State: {state}\r\nPrefer: wait=20");
        let request = format!("OPTIONS /primary HTTP/1.0\r\n{headers}\r\n\r\n");
        async move { http(port, &request).await.split(' ').nth(1).map(str::to_owned) }
    };
    // Whoever does not know yet is told at once.
    assert_eq!(ask("UP 1/3; name=primary/pg-1").await.as_deref(), Some("503"));
    let (held, ()) = tokio::join!(ask("DOWN; name=primary/pg-1"), async {
        // Long enough for the question to be there, not for its time to be up.
        tokio::time::sleep(Duration::from_millis(100)).await;
        views.send_replace(Arc::new(leads));
    });
    assert_eq!(held.as_deref(), Some("200"));
}

#[tokio::test]
async fn operators_need_the_password_and_get_the_loops_answer() {
    let login = |password: &str| Some(("admin".to_owned(), Secret::new(password)));
    let view = changed(primary(), |view| view.login = login("former"));
    let (port, views, mut requests) = served(view).await;
    views.send_replace(Arc::new(changed(primary(), |view| view.login = login("secret"))));
    let answer = http(port, "POST /reload HTTP/1.0\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 401") && answer.contains("www-authenticate: Basic"), "{answer}");
    let wrong =
        "POST /reload HTTP/1.0\r\nAuthorization: Basic YWRtaW46c2VjcmV0Mg==\r\nContent-Length: 0\r\n\r\n";
    assert!(http(port, wrong).await.starts_with("HTTP/1.0 401"));
    assert!(http(port, "GET /config HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"), "reading is free");

    let body = r#"{"ttl":5}"#;
    let request = format!(
        "PATCH /config HTTP/1.0\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answering = async {
        let request = requests.recv().await.unwrap();
        let Operation::PatchConfig(patch) = request.operation else { panic!("something else") };
        request.reply.send(Outcome::Document(Value::Object(patch))).unwrap();
        let request = requests.recv().await.unwrap();
        drop(request.reply);
    };
    let asking = async {
        let answer = http(port, &request).await;
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with(body), "{answer}");
        let answer = http(port, &request).await;
        assert!(answer.starts_with("HTTP/1.0 503"), "the loop dropped it: {answer}");
    };
    tokio::join!(answering, asking);
}
