//! Certificates of a cluster on this machine, in files as a host has them, and how a test speaks TLS.

use pgfleet::{
    model::Secret,
    pki::{Authority, Facts, Wanted},
    tls::{Check, Client, ClientOptions, Identity, Pem, ask_postgres},
};
use std::{fs, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The authority, and how its clients ask.
pub struct Security {
    authority: Authority,
    with_certificate: Client,
    without: Client,
}

fn wanted(subject: &str) -> Wanted {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    Wanted { subject: subject.to_owned(), names, days: 30 }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

impl Security {
    pub fn new() -> Self {
        let authority = Authority::create(&"agents".parse().expect("a name"), jiff::Timestamp::now());
        let authority = authority.expect("an authority");
        let leaf = authority.issue(&wanted("operator"), jiff::Timestamp::now()).expect("a certificate");
        let text = |pem: &str| Pem::Text { what: "a test's", pem: Secret::new(pem) };
        let client = |identity| {
            let options = ClientOptions {
                authority: Some(text(authority.certificate())),
                identity,
                check: Check::Name,
            };
            Client::new(options).expect("a client")
        };
        let identity = Identity { certificate: text(&leaf.certificate), key: text(leaf.key.expose()) };
        let (with_certificate, without) = (client(Some(identity)), client(None));
        Self { with_certificate, without, authority }
    }

    /// Writes `ca.crt`, `own.crt` and `own.key`: a certificate that was made just now.
    pub fn write(&self, folder: &Path, subject: &str, owner: &nix::unistd::User) {
        let leaf = self.authority.issue(&wanted(subject), jiff::Timestamp::now()).expect("a certificate");
        let files = [
            ("ca.crt", self.authority.certificate()),
            ("own.crt", &leaf.certificate),
            ("own.key", leaf.key.expose()),
        ];
        for (name, content) in files {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.join(name);
            fs::write(&path, content).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("root may");
            nix::unistd::chown(&path, Some(owner.uid), Some(owner.gid)).expect("root may");
        }
    }

    /// Sends a request; the answer as it comes.
    pub fn request(&self, port: u16, request: &[u8], with_certificate: bool) -> Option<String> {
        let client = if with_certificate { &self.with_certificate } else { &self.without };
        block_on(async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let mut stream = client.connect("127.0.0.1", stream).await.ok()?;
            stream.write_all(request).await.ok()?;
            let mut answer = String::new();
            let reading = stream.read_to_string(&mut answer);
            tokio::time::timeout(std::time::Duration::from_secs(40), reading).await.ok()?.ok()?;
            Some(answer)
        })
    }

    /// The serial number of the certificate that is presented on a port.
    pub fn serial(&self, port: u16, postgres: bool) -> Option<String> {
        block_on(async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            if postgres && !ask_postgres(&mut stream).await.ok()? {
                return None;
            }
            let certificate = self.with_certificate.presented("127.0.0.1", stream).await.ok()?;
            Some(Facts::of_der(&certificate).ok()?.serial)
        })
    }
}
