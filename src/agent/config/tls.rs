//! What the configuration says of TLS: Patroni's words for the REST API and its clients, for etcd, and libpq's
//! for PostgreSQL. A file that holds both a certificate and its key need only be named once.

use super::read::Reader;
use crate::{
    agent::postgres::{Ssl, SslMode},
    tls::{Check, ClientOptions, Clients, Identity, Pem, ServerOptions},
};

impl Reader<'_> {
    fn pem(&self, path: &str) -> Option<Pem> {
        self.path(path).map(Pem::File)
    }

    fn identity(&self, certificate: &str, key: &str) -> Option<Identity> {
        let certificate = self.pem(certificate)?;
        Some(Identity { key: self.pem(key).unwrap_or_else(|| certificate.clone()), certificate })
    }

    /// `None`: it is wrong, which is found; `Some(None)`: plain text.
    pub(super) fn api_tls(&mut self) -> Option<Option<ServerOptions>> {
        let clients = self.word("restapi.verify_client", &["none", "optional", "required"]);
        let Some(identity) = self.identity("restapi.certfile", "restapi.keyfile") else {
            if clients > 0 {
                let message = "`restapi.verify_client` needs TLS, and `restapi.certfile` is missing";
                self.wrong("restapi.verify_client", message, "expected `certfile` and `keyfile` beside it");
                return None;
            }
            return Some(None);
        };
        let clients = match (clients, self.pem("restapi.cafile")) {
            (0, _) => Clients::Unasked,
            (1, Some(authority)) => Clients::Optional(authority),
            (_, Some(authority)) => Clients::Required(authority),
            (_, None) => {
                let message = "`restapi.verify_client` needs to know whose certificates count";
                self.wrong("restapi.verify_client", message, "expected `cafile` beside it");
                return None;
            }
        };
        Some(Some(ServerOptions { identity, clients }))
    }

    /// How other members are asked: by `ctl`, and what it lacks by `restapi`.
    pub(super) fn peers(&self) -> Option<ClientOptions> {
        let authority = self.pem("ctl.cacert").or_else(|| self.pem("restapi.cafile"));
        let identity = self
            .identity("ctl.certfile", "ctl.keyfile")
            .or_else(|| self.identity("restapi.certfile", "restapi.keyfile"));
        let check = match authority {
            Some(_) if self.flag("ctl.insecure") != Some(true) => Check::Name,
            _ => Check::Nothing,
        };
        (authority.is_some() || identity.is_some()).then_some(ClientOptions { authority, identity, check })
    }

    /// etcd over TLS; `None` when it names no authority, which is then found.
    pub(super) fn etcd_tls(&mut self, section: &str) -> Option<ClientOptions> {
        let Some(authority) = self.pem(&format!("{section}.cacert")) else {
            let message = format!("`{section}` is spoken to over TLS, and `{section}.cacert` is missing");
            self.wrong(section, message, "expected `cacert`, the authority that signed etcd's certificates");
            return None;
        };
        let identity = self.identity(&format!("{section}.cert"), &format!("{section}.key"));
        Some(ClientOptions { authority: Some(authority), identity, check: Check::Name })
    }

    /// How connections of a role are encrypted.
    pub(super) fn ssl(&mut self, role: &str) -> Ssl {
        let at = |word: &str| format!("{role}.{word}");
        let modes = SslMode::ALL.map(SslMode::as_str);
        let mode = match self.text(&at("sslmode")) {
            Some(_) => SslMode::ALL[self.word(&at("sslmode"), &modes)],
            None => SslMode::default(),
        };
        let root = self.path(&at("sslrootcert"));
        if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && root.is_none() {
            let message = format!("`sslmode: {}` needs to know whom to trust", mode.as_str());
            self.wrong(&at("sslmode"), message, "expected `sslrootcert` beside it");
        }
        let identity = match (self.path(&at("sslcert")), self.path(&at("sslkey"))) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong(&at("sslcert"), "`sslcert` needs a key", "expected `sslkey` beside it");
                None
            }
            (None, Some(_)) => {
                self.wrong(&at("sslkey"), "`sslkey` needs a certificate", "expected `sslcert` beside it");
                None
            }
        };
        Ssl { mode, root, identity }
    }
}
