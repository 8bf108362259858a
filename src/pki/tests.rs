//! Certificates as both ends of real TLS connections see them.

use super::*;
use crate::{
    model::Secret,
    tls::{self, Check, Client, ClientOptions, Clients, Identity, Pem, Server, ServerOptions},
};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn authority() -> Authority {
    Authority::create(&"demo".parse().expect("a name"), Timestamp::now()).expect("an authority")
}

fn wanted(names: &[&str], days: u32) -> Wanted {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Wanted { subject: "pg-1 postgres".to_owned(), names, days }
}

fn leaf(authority: &Authority, names: &[&str]) -> Leaf {
    authority.issue(&wanted(names, 365), Timestamp::now()).expect("a certificate")
}

fn text(what: &'static str, pem: impl Into<String>) -> Pem {
    Pem::Text { what, pem: Secret::new(pem) }
}

fn identity(leaf: &Leaf) -> Identity {
    Identity {
        certificate: text("certificate", leaf.certificate.clone()),
        key: Pem::Text { what: "key", pem: leaf.key.clone() },
    }
}

fn client(authority: &Authority, leaf: Option<&Leaf>, check: Check) -> Client {
    let options = ClientOptions {
        authority: Some(text("authority", authority.certificate())),
        identity: leaf.map(identity),
        check,
    };
    Client::new(options).expect("a client")
}

/// One byte there and back, and whether the server saw a certificate.
async fn talk(client: &Client, host: &str, server: &Server) -> Result<bool, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let there = async {
        let mut stream = server.accept(far).await.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_u8(byte).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        Ok::<bool, String>(stream.get_ref().1.peer_certificates().is_some())
    };
    let here = async {
        let mut stream: tls::Wire = client.connect(host, near).await.map_err(|error| error.to_string())?;
        stream.write_u8(7).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())
    };
    let (there, here) = tokio::join!(there, here);
    assert_eq!(here?, 7);
    there
}

#[test]
fn a_certificate_says_what_was_wanted() {
    let authority = authority();
    let wanted = wanted(&["pg-1", "10.0.0.1", "fd00::1", "localhost"], 90);
    let leaf = authority.issue(&wanted, Timestamp::now()).expect("a certificate");
    let facts = Facts::read(&leaf.certificate).expect("readable");
    assert_eq!(reason(Some(&facts), &wanted, authority.facts(), Timestamp::now().as_second()), None);
    assert_eq!(facts.not_after - facts.not_before, 90 * 86_400 + 3_600);
    assert_eq!(Leaf::split(&leaf.joined()), Some(leaf));
    assert_eq!(authority.facts().subject, "demo certificate authority");
}

#[test]
fn an_authority_that_was_kept_goes_on_signing() {
    let made = authority();
    let kept = Authority::read(made.certificate(), made.key()).expect("readable");
    let facts = Facts::read(&leaf(&kept, &["a"]).certificate).expect("readable");
    assert_eq!(facts.signed_by, made.facts().key);
    let other = Authority::create(&"demo".parse().expect("a name"), Timestamp::now()).expect("an authority");
    assert_ne!(other.facts().key, made.facts().key);
}

#[test]
fn no_certificate_outlives_its_authority() {
    let authority = authority();
    let late = Timestamp::from_second(authority.facts().not_after - 86_400).expect("a time");
    let leaf = authority.issue(&wanted(&["a"], 365), late).expect("a certificate");
    assert_eq!(Facts::read(&leaf.certificate).expect("readable").not_after, authority.facts().not_after);
}

#[tokio::test]
async fn both_ends_check_each_other() {
    let (ours, theirs) = (authority(), authority());
    let own = leaf(&ours, &["pg-1", "10.0.0.1", "127.0.0.1"]);
    let foreign = leaf(&theirs, &["pg-1", "10.0.0.1"]);
    let server = |leaf: &Leaf, clients: Clients| {
        Server::new(ServerOptions { identity: identity(leaf), clients }).expect("a server")
    };
    let optional = || Clients::Optional(text("authority", ours.certificate()));
    let required = || Clients::Required(text("authority", ours.certificate()));

    let named = client(&ours, Some(&own), Check::Name);
    assert_eq!(talk(&named, "10.0.0.1", &server(&own, required())).await, Ok(true));
    assert_eq!(talk(&named, "pg-1", &server(&own, Clients::Unasked)).await, Ok(false));
    let anonymous = client(&ours, None, Check::Name);
    assert_eq!(talk(&anonymous, "pg-1", &server(&own, optional())).await, Ok(false));
    assert!(talk(&anonymous, "pg-1", &server(&own, required())).await.is_err());
    let stranger = client(&ours, Some(&foreign), Check::Name);
    assert!(talk(&stranger, "pg-1", &server(&own, optional())).await.is_err());

    // Another name, another authority; and what libpq's `verify-ca` and `require` let pass.
    let served = || server(&own, Clients::Unasked);
    assert!(talk(&named, "10.0.0.2", &served()).await.is_err());
    assert!(talk(&client(&theirs, None, Check::Name), "pg-1", &served()).await.is_err());
    assert_eq!(talk(&client(&ours, None, Check::Authority), "10.0.0.2", &served()).await, Ok(false));
    assert!(talk(&client(&theirs, None, Check::Authority), "pg-1", &served()).await.is_err());
    assert_eq!(talk(&client(&theirs, None, Check::Nothing), "pg-1", &served()).await, Ok(false));
}

#[tokio::test]
async fn files_that_were_replaced_are_taken_up_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| Pem::File(folder.path().join(name));
    let write = |leaf: &Leaf| {
        std::fs::write(folder.path().join("crt"), &leaf.certificate).expect("written");
        std::fs::write(folder.path().join("key"), leaf.key.expose()).expect("written");
    };
    let (old, new) = (authority(), authority());
    write(&leaf(&old, &["pg-1"]));
    let options = ServerOptions {
        identity: Identity { certificate: file("crt"), key: file("key") },
        clients: Clients::Unasked,
    };
    let server = Server::new(options).expect("a server");
    assert!(talk(&client(&old, None, Check::Name), "pg-1", &server).await.is_ok());

    std::fs::write(folder.path().join("key"), leaf(&new, &["pg-1"]).key.expose()).expect("written");
    assert!(server.reload().is_err(), "a key of another certificate");
    assert!(talk(&client(&old, None, Check::Name), "pg-1", &server).await.is_ok());

    write(&leaf(&new, &["pg-1"]));
    server.reload().expect("taken up");
    assert!(talk(&client(&new, None, Check::Name), "pg-1", &server).await.is_ok());
    assert!(talk(&client(&old, None, Check::Name), "pg-1", &server).await.is_err());
}
