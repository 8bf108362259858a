//! The certificates of an inventory's hosts: which there have to be, and whether those that are kept serve on.
//! They are given to a host's templates as `tls_authority`, the PEM of whom to trust, and `tls_certificates`,
//! by role: `{etcd: {certificate, private_key}, ...}`.

use super::{Host, Inventory};
use crate::{
    diagnostic::Diagnostic,
    model::{HostName, Scope, Secret},
    pki::{self, Authority, Facts, Leaf, Wanted, reason},
    remote::Tls,
    secret::{Keyring, Store},
    tls::{Check, Client, ClientOptions, Identity, Pem},
    yaml::Document,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What has a certificate: the groups whose services speak TLS.
const ROLES: [&str; 3] = ["etcd", "postgres", "haproxy"];
/// Variables that hold what this file gives.
pub(super) const VARIABLES: [&str; 2] = ["tls_authority", "tls_certificates"];

const AUTHORITY: &str = "tls_authority_certificate";
const AUTHORITY_KEY: &str = "tls_authority_key";
/// An authority that hosts learn to trust before it signs anything.
const NEXT: &str = "tls_authority_next_certificate";
const NEXT_KEY: &str = "tls_authority_next_key";
/// One that signs nothing any more, trusted until nothing that it signed is in use.
const PREVIOUS: &str = "tls_authority_previous_certificate";
/// This machine proves who it is anew each time: it has the authority's key.
const OPERATOR_DAYS: u32 = 1;

/// How far the replacement of an authority is. Every host has to be brought to one step before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A new authority is trusted beside the old one.
    Introduced,
    /// It signs, and the old one is still trusted.
    Switched,
    /// The old one is trusted no longer.
    Finished,
}

/// Whether a name in the secrets file is one that this file gives. What it holds is looked at by loading.
pub(super) fn is_kept_as(name: &str) -> bool {
    [AUTHORITY, AUTHORITY_KEY, NEXT, NEXT_KEY, PREVIOUS].contains(&name) || is_leaf(name)
}

fn is_leaf(name: &str) -> bool {
    ROLES.iter().any(|role| name.starts_with(&format!("tls_{role}_")))
}

/// What a secrets file in plain text holds besides certificates of services, which are made anew as it is due
/// and tell nothing of whose the file is.
pub fn lasting_secrets(path: &Path, text: &Secret) -> Result<Map<String, Value>, Diagnostic> {
    let document = Document::parse_covered(path, text)?;
    let root = document.root();
    let lasting = root.entries().filter(|(name, _)| !is_leaf(name));
    Ok(lasting.map(|(name, node)| (name.to_owned(), node.value().clone())).collect())
}

/// A certificate of a service.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub host: HostName,
    pub role: &'static str,
    pub facts: Facts,
}

/// By role, the files with which its hosts speak TLS with the others, as the argument `tls` of resources that
/// ask a service; empty where nobody speaks it.
pub(super) fn files(has_tls: bool) -> Value {
    let of_role = |role: &str| if has_tls { json!(Tls::of_role(role)) } else { json!({}) };
    ["etcd", "postgres"]
        .map(|role| (role.to_owned(), of_role(role)))
        .into_iter()
        .collect::<Map<_, _>>()
        .into()
}

/// Gives each host its certificates: those that are kept, or new ones where they don't serve. `None`: the
/// cluster has no TLS.
pub(super) fn give(
    store: &mut Store<'_>,
    cluster: &Scope,
    hosts: &mut IndexMap<HostName, Host>,
) -> Result<Option<Authority>, Diagnostic> {
    let setting = |name: &str| hosts.values().next().and_then(|host| host.vars.get(name));
    if setting("tls") != Some(&Value::Bool(true)) {
        return Ok(None);
    }
    let days = setting("certificate_days").and_then(Value::as_u64).and_then(|days| u32::try_from(days).ok());
    let now = Timestamp::now();
    let authority = authority(store, cluster, now)?;
    let mut given: Vec<(HostName, Map<String, Value>)> = Vec::new();
    for host in hosts.values() {
        let mut certificates = Map::new();
        for role in ROLES.into_iter().filter(|role| host.is_in(role)) {
            let wanted = Wanted {
                subject: format!("{role} {}", host.name),
                names: names(role, host, hosts),
                days: days.unwrap_or(365),
            };
            let leaf = kept_or_new(store, &authority, &format!("tls_{role}_{}", host.name), &wanted, now)?;
            let both = json!({"certificate": leaf.certificate, "private_key": leaf.key.expose()});
            certificates.insert(role.to_owned(), both);
        }
        given.push((host.name.clone(), certificates));
    }
    let trusted: String =
        [NEXT, PREVIOUS].iter().filter_map(|name| store.get(name)).map(Secret::expose).collect();
    let trusted = format!("{}{trusted}", authority.certificate());
    for (name, certificates) in given {
        if let Some(host) = hosts.get_mut(&name) {
            host.vars.insert("tls_authority".to_owned(), trusted.clone().into());
            host.vars.insert("tls_certificates".to_owned(), Value::Object(certificates));
        }
    }
    Ok(Some(authority.trusting(trusted)))
}

/// Takes the replacement of an inventory's authority one step further; the next [`Inventory::load`] has it.
pub fn rotate(inventory: &Inventory, keys: &Keyring) -> Result<Rotation, Diagnostic> {
    let mut store = Store::beside(&inventory.path, keys)?;
    let step = advance(&mut store, &inventory.cluster)?;
    store.save()?;
    Ok(step)
}

fn advance(store: &mut Store<'_>, cluster: &Scope) -> Result<Rotation, Diagnostic> {
    if store.remove(PREVIOUS).is_some() {
        return Ok(Rotation::Finished);
    }
    match (store.remove(NEXT), store.remove(NEXT_KEY), store.get(AUTHORITY).cloned()) {
        (Some(certificate), Some(key), Some(old)) => {
            store.put(AUTHORITY, certificate);
            store.put(AUTHORITY_KEY, key);
            store.put(PREVIOUS, old);
            Ok(Rotation::Switched)
        }
        _ => {
            let next = Authority::create(cluster, Timestamp::now()).map_err(unusable)?;
            store.put(NEXT, Secret::new(next.certificate()));
            store.put(NEXT_KEY, next.key().clone());
            Ok(Rotation::Introduced)
        }
    }
}

fn authority(store: &mut Store<'_>, cluster: &Scope, now: Timestamp) -> Result<Authority, Diagnostic> {
    match (store.get(AUTHORITY), store.get(AUTHORITY_KEY)) {
        (Some(certificate), Some(key)) => Authority::read(certificate.expose(), key).map_err(unusable),
        (None, None) => {
            let authority = Authority::create(cluster, now).map_err(unusable)?;
            store.put(AUTHORITY, Secret::new(authority.certificate()));
            store.put(AUTHORITY_KEY, authority.key().clone());
            Ok(authority)
        }
        (found, _) => {
            let missing = if found.is_some() { AUTHORITY_KEY } else { AUTHORITY };
            let message = format!("`{}` lacks `{missing}`", store.path().display());
            Err(Diagnostic::error(message)
                .help("restore the file from a copy: hosts trust the authority that they know, and no other"))
        }
    }
}

fn kept_or_new(
    store: &mut Store<'_>,
    authority: &Authority,
    name: &str,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Leaf, Diagnostic> {
    let kept = store.get(name).and_then(Leaf::split);
    let facts = kept.as_ref().and_then(|leaf| Facts::read(&leaf.certificate).ok());
    match (kept, reason(facts.as_ref(), wanted, authority.facts(), now.as_second())) {
        (Some(leaf), None) => Ok(leaf),
        _ => {
            let leaf = authority.issue(wanted, now).map_err(unusable)?;
            store.put(name, leaf.joined());
            Ok(leaf)
        }
    }
}

/// By what the service of a host is reached: from the others, and on the host itself. PostgreSQL also by the
/// entry points, which pass TLS through.
fn names(role: &str, host: &Host, hosts: &IndexMap<HostName, Host>) -> Vec<String> {
    let mut names = vec![host.name.to_string(), host.address().to_owned()];
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let entrances = hosts.values().filter(|other| other.is_in("haproxy"));
    if role == "postgres" {
        names.extend(entrances.flat_map(|other| [other.name.to_string(), other.address().to_owned()]));
    }
    if role != "etcd" {
        let vip = host.text("vip").and_then(|vip| vip.split('/').next());
        names.extend(vip.map(str::to_owned));
    }
    // An address that follows from the host itself is not known yet.
    names.retain(|name| !name.contains('{'));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn unusable(error: pki::Error) -> Diagnostic {
    Diagnostic::error(error.to_string()).help("see what the secrets file beside the inventory has of it")
}

impl Inventory {
    /// How this machine speaks TLS with the cluster's services; `None` where they don't.
    pub fn tls_client(&self) -> Result<Option<Client>, Diagnostic> {
        let Some(authority) = &self.authority else { return Ok(None) };
        let wanted = Wanted { subject: "operator".to_owned(), names: Vec::new(), days: OPERATOR_DAYS };
        let leaf = authority.issue(&wanted, Timestamp::now()).map_err(unusable)?;
        let text = |what, pem| Pem::Text { what, pem };
        let options = ClientOptions {
            authority: Some(text("the authority's certificate", Secret::new(authority.trusted()))),
            identity: Some(Identity {
                certificate: text("the operator's certificate", Secret::new(leaf.certificate)),
                key: text("the operator's key", leaf.key),
            }),
            check: Check::Name,
        };
        Client::new(options).map(Some).map_err(|error| Diagnostic::error(error.to_string()))
    }

    /// The authority's certificate; `None` where the cluster has no TLS.
    pub fn authority(&self) -> Option<&Facts> {
        self.authority.as_ref().map(Authority::facts)
    }

    /// Every certificate of a service, host by host.
    pub fn certificates(&self) -> Vec<Certificate> {
        let of_host = |host: &Host| {
            let certificates = host.vars.get("tls_certificates").cloned().unwrap_or_default();
            let name = host.name.clone();
            ROLES.into_iter().filter_map(move |role| {
                let facts = Facts::read(certificates[role]["certificate"].as_str()?).ok()?;
                Some(Certificate { host: name.clone(), role, facts })
            })
        };
        self.hosts.values().flat_map(of_host).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const INVENTORY: &str = "
all:
  vars: {cluster_name: demo, tls: true, vip: 10.0.0.9/24}
  children:
    etcd: {hosts: {a: {ansible_host: 10.0.0.1}}}
    postgres: {hosts: {a: }}
    haproxy: {hosts: {lb: {ansible_host: 10.0.0.2}}}
    keepalived: {hosts: {lb: }}
";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inventory.yml");
        std::fs::write(&path, INVENTORY).unwrap();
        (folder, path)
    }

    fn load(path: &std::path::Path, extra: &[&str]) -> Inventory {
        let extra: Vec<String> = extra.iter().map(|one| (*one).to_owned()).collect();
        Inventory::load(path, &extra).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    fn serials(inventory: &Inventory) -> Vec<String> {
        inventory.certificates().into_iter().map(|one| one.facts.serial).collect()
    }

    #[test]
    fn every_service_has_a_certificate_for_all_that_it_is_reached_by() {
        let (_folder, path) = folder();
        let inventory = load(&path, &[]);
        let found: Vec<String> = inventory
            .certificates()
            .iter()
            .map(|one| {
                let names = one.facts.names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
                format!("{}: {names}", one.facts.subject)
            })
            .collect();
        insta::assert_snapshot!(found.join("\n"), @r"
        etcd a: 10.0.0.1 127.0.0.1 ::1 a localhost
        postgres a: 10.0.0.1 10.0.0.2 10.0.0.9 127.0.0.1 ::1 a lb localhost
        haproxy lb: 10.0.0.2 10.0.0.9 127.0.0.1 ::1 lb localhost
        ");
        assert!(inventory.tls_client().unwrap().is_some());
        let vars = inventory.variables(&inventory.hosts["lb"]);
        assert!(vars["tls_authority"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(vars["tls_certificates"].get("postgres").is_none(), "a host has what its roles need");
        let secrets = inventory.secrets();
        assert!(secrets.iter().any(|secret| secret.expose().contains("PRIVATE KEY")), "keys are masked");
        let shared = serde_json::to_string(&inventory.global_variables()).unwrap();
        assert!(!shared.contains("PRIVATE KEY"), "no host sees another's key");
    }

    #[test]
    fn what_serves_is_kept_and_the_rest_is_made_anew() {
        let (_folder, path) = folder();
        let first = serials(&load(&path, &[]));
        assert_eq!(serials(&load(&path, &[])), first);
        let later = serials(&load(&path, &["certificate_days=3000"]));
        assert!(first.iter().zip(&later).all(|(old, new)| old != new), "they end soon, measured by that");
        assert_eq!(serials(&load(&path, &[])), later);
        std::fs::write(&path, INVENTORY.replace("10.0.0.2", "10.0.0.3")).unwrap();
        let moved = serials(&load(&path, &[]));
        assert_eq!(moved[0], later[0], "etcd is not reached through HAProxy");
        assert!(moved[1] != later[1] && moved[2] != later[2]);
        std::fs::write(&path, INVENTORY.replace("tls: true", "tls: false")).unwrap();
        assert!(load(&path, &[]).authority().is_none());
    }

    #[test]
    fn an_authority_is_replaced_step_by_step() {
        let (_folder, path) = folder();
        let trusted = |inventory: &Inventory| {
            inventory.hosts["a"].vars["tls_authority"].as_str().unwrap().matches("BEGIN").count()
        };
        let mut inventory = load(&path, &[]);
        let (authority, before) = (inventory.authority().cloned(), serials(&inventory));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let step = rotate(&inventory, &Keyring::default()).unwrap();
            inventory = load(&path, &[]);
            let signs = inventory.authority() != authority.as_ref();
            seen.push((step, trusted(&inventory), signs, serials(&inventory) != before));
        }
        assert_eq!(
            seen,
            [
                (Rotation::Introduced, 2, false, false),
                (Rotation::Switched, 2, true, true),
                (Rotation::Finished, 1, true, true),
            ]
        );
        let kept = std::fs::read_to_string(path.with_file_name("inventory.secrets.yml")).unwrap();
        assert_eq!(kept.matches("tls_authority").count(), 2, "nothing of the old one is kept");
    }

    #[test]
    fn whose_secrets_they_are_is_not_told_by_certificates() {
        let (_folder, path) = folder();
        let lasting = || {
            let text = std::fs::read_to_string(path.with_file_name("inventory.secrets.yml")).unwrap();
            lasting_secrets(&path, &Secret::new(text)).unwrap()
        };
        load(&path, &[]);
        let before = lasting();
        load(&path, &["certificate_days=3000"]);
        assert_eq!(lasting(), before);
        rotate(&load(&path, &[]), &Keyring::default()).unwrap();
        assert_ne!(lasting(), before);
    }

    #[test]
    fn half_an_authority_is_refused() {
        let (_folder, path) = folder();
        load(&path, &[]);
        let keys = Keyring::default();
        let mut store = Store::beside(&path, &keys).unwrap();
        store.remove(AUTHORITY_KEY);
        store.save().unwrap();
        let Err(wrong) = Inventory::load(&path, &[]) else { panic!("it was accepted") };
        assert!(wrong.to_string().contains("lacks `tls_authority_key`"), "{wrong}");
    }
}
