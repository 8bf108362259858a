//! Looks at what a host has before anything is done to it, and changes nothing. Only what is asked for is
//! looked at, and nothing is judged here: that is done where the whole cluster is known. What hosts find out with
//! each other is in `links`.

pub mod links;
mod sync;
mod vrrp;

pub use crate::remote::arp::Answers;
pub use sync::Syncs;
pub use vrrp::Advert;

use crate::{
    remote::{
        arp,
        host::Host,
        http::{Call, Tls},
        listeners::{self, Listener},
    },
    yaml::Document,
};
use futures_util::future::join_all;
use hyper::Method;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

/// How long another host may take to answer.
const PEER_LIMIT: Duration = Duration::from_secs(2);
/// How long a holder of the virtual address may take to answer.
const HOLDER_LIMIT: Duration = Duration::from_millis(600);
/// Holders announce themselves once a second, unless somebody has chosen otherwise.
const ADVERTS_LIMIT: Duration = Duration::from_millis(1300);
const ETCD_SETTINGS: &str = "/etc/default/etcd";
const AGENT_SETTINGS: &str = "/etc/pgfleet/agent.yml";
const HAPROXY_SETTINGS: &str = "/etc/haproxy/haproxy.cfg";
const KEEPALIVED_SETTINGS: &str = "/etc/keepalived/keepalived.conf";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants";
/// The first words of every file that is rendered from our templates.
const MARK: &str = "# Managed by pgfleet";

/// Services that would rule over PostgreSQL or an address beside the cluster's own.
const RIVALS: [&str; 7] = [
    "patroni.service",
    "vip-manager.service",
    "repmgrd.service",
    "pgautofailover.service",
    "stolon-keeper.service",
    "corosync.service",
    "pacemaker.service",
];

/// What to look at. Nothing in particular still gives the clock and what pgfleet's files say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Questions {
    /// Folders that data will go to; they need not exist.
    pub folders: Vec<String>,
    pub ports: Vec<u16>,
    /// Other hosts to be reached from this one.
    pub peers: Vec<Peer>,
    /// The data directory of PostgreSQL.
    pub postgres_data_dir: Option<String>,
    /// The data directory of etcd.
    pub etcd_data_dir: Option<String>,
    /// The store on this host, and the cluster's folder in it.
    pub store: Option<Store>,
    /// Folders whose writes services wait for; they need not exist.
    #[serde(default)]
    pub synced: Vec<String>,
    #[serde(default)]
    pub vip: Option<Vip>,
}

/// A virtual address that the host is to share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    pub address: Ipv4Addr,
    /// The interface that is to carry it; the one whose network has it when none.
    pub interface: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub address: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// A client URL of etcd.
    pub url: String,
    /// The folder with a slash at its end.
    pub folder: String,
    /// Files on the host with which etcd is spoken to, where it speaks TLS.
    #[serde(default)]
    pub tls: Tls,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The host's clock in milliseconds since 1970, read before anything else.
    pub clock_ms: i64,
    /// In the order of the questions.
    pub folders: Vec<Folder>,
    pub listeners: Vec<Listener>,
    /// In the order of the questions: how long the other host took to answer, in milliseconds; none when it
    /// did not.
    pub peers: Vec<Option<f64>>,
    pub data: Option<DataDirectory>,
    pub etcd: Etcd,
    /// None where no store answers.
    pub store: Option<StoreFolder>,
    /// The agent's configuration, where there is one.
    pub agent: Option<Agent>,
    /// Configurations that are there and were not written by pgfleet.
    pub foreign_files: Vec<String>,
    /// Whether there is a configuration of keepalived that pgfleet has written.
    #[serde(default)]
    pub own_keepalived: bool,
    /// Units that run or are to run, and whose business is the cluster's.
    #[serde(default)]
    pub rivals: Vec<String>,
    /// In the order of the questions, without those where nothing can be written.
    #[serde(default)]
    pub syncs: Vec<Syncs>,
    #[serde(default)]
    pub vip: Option<Result<VipFound, String>>,
}

/// What the network says of the virtual address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipFound {
    /// Who answers for it.
    pub answers: Answers,
    /// What is announced on its interface, by whomever.
    pub adverts: Vec<Advert>,
}

/// Where a path is, or will be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub path: String,
    /// The file system that it is on.
    pub mount: String,
    pub fstype: String,
    /// What ordinary users may still write.
    pub available_bytes: u64,
    /// Files that may still be made; none where the file system does not count them.
    pub available_files: Option<u64>,
    pub read_only: bool,
}

/// A directory that PostgreSQL's data is to be in. Absent and empty are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDirectory {
    pub is_empty: bool,
    /// The content of `PG_VERSION`.
    pub version: Option<String>,
    /// PostgreSQL's own number for this cluster, from `pg_control`.
    pub system_identifier: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etcd {
    /// Whether the directory that was asked about holds a member's data.
    pub has_data: bool,
    /// What the settings on the host say, where there are any.
    pub data_dir: Option<String>,
    pub token: Option<String>,
    pub name: Option<String>,
}

/// The cluster's folder in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFolder {
    pub keys: u64,
    /// The system identifier under `initialize`.
    pub system_identifier: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub scope: String,
    pub name: String,
    pub data_dir: String,
}

/// Looks at everything that is asked for.
pub(crate) async fn survey(host: &Host, questions: &Questions) -> Survey {
    let clock_ms = jiff::Timestamp::now().as_millisecond();
    let mounts = fs::read_to_string(host.path("/proc/mounts")).unwrap_or_default();
    let peers = join_all(questions.peers.iter().map(reach));
    let store = async {
        match &questions.store {
            Some(store) => ask_store(store).await,
            None => None,
        }
    };
    let vip = async {
        match questions.vip.clone() {
            Some(vip) => {
                Some(spawn_blocking(|| ask_for(vip)).await.unwrap_or_else(|error| Err(error.to_string())))
            }
            None => None,
        }
    };
    let (peers, store, vip, syncs) = tokio::join!(peers, store, vip, syncs(host, &questions.synced));
    Survey {
        clock_ms,
        folders: questions.folders.iter().map(|path| folder(host, path, &mounts)).collect(),
        listeners: listeners::on(host, &questions.ports),
        peers,
        data: questions.postgres_data_dir.as_ref().map(|path| data_directory(&host.path(path))),
        etcd: etcd(host, questions.etcd_data_dir.as_deref()),
        store,
        agent: agent(&host.path(AGENT_SETTINGS)),
        foreign_files: foreign_files(host),
        own_keepalived: is_own(host, KEEPALIVED_SETTINGS) == Some(true),
        rivals: rivals(host),
        syncs,
        vip,
    }
}

/// How long a TCP connection takes. Being refused is an answer too: the host is there.
async fn reach(peer: &Peer) -> Option<f64> {
    let begun = Instant::now();
    let connected = timeout(PEER_LIMIT, TcpStream::connect((peer.address.as_str(), peer.port))).await.ok()?;
    match connected {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
        Err(_) => return None,
    }
    Some(begun.elapsed().as_secs_f64() * 1000.0)
}

/// Measures one after the other: disks may be shared.
async fn syncs(host: &Host, folders: &[String]) -> Vec<Syncs> {
    let places: Vec<_> = folders.iter().map(|path| (path.clone(), nearest(host, path))).collect();
    let measure = || places.into_iter().filter_map(|(path, folder)| sync::measure(path, &folder)).collect();
    spawn_blocking(measure).await.unwrap_or_default()
}

/// Asks who has the address, and listens who announces what.
fn ask_for(vip: Vip) -> Result<VipFound, String> {
    let interface = match &vip.interface {
        Some(interface) => interface.clone(),
        None => arp::interface_of(vip.address)?,
    };
    std::thread::scope(|threads| {
        let adverts = threads.spawn(|| vrrp::hear(&interface, ADVERTS_LIMIT));
        let answers = arp::probe(vip.address, Some(&interface), HOLDER_LIMIT)?;
        let adverts = adverts.join().map_err(|_| "nothing could be heard".to_owned())?;
        let adverts = adverts.map_err(|error| format!("{interface}: {error}"))?;
        Ok(VipFound { answers, adverts })
    })
}

/// What does not exist yet will be on the file system of what does.
fn nearest(host: &Host, path: &str) -> PathBuf {
    let wanted = host.path(path);
    let nearest = wanted.ancestors().find_map(|ancestor| fs::canonicalize(ancestor).ok());
    nearest.unwrap_or_else(|| host.path("/"))
}

fn folder(host: &Host, path: &str, mounts: &str) -> Folder {
    let nearest = nearest(host, path);
    let (mount, fstype) = mounted_on(&nearest, mounts).unwrap_or_default();
    let space = statvfs(&nearest).ok();
    Folder {
        path: path.to_owned(),
        mount,
        fstype,
        available_bytes: space.map_or(0, |space| space.blocks_available() * space.fragment_size()),
        available_files: space.filter(|space| space.files() > 0).map(|space| space.files_available()),
        read_only: space.is_some_and(|space| space.flags().contains(FsFlags::ST_RDONLY)),
    }
}

/// The mount point that a path is on, with the kind of its file system.
fn mounted_on(path: &Path, mounts: &str) -> Option<(String, String)> {
    let entries = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let mount = fields.next()?.replace("\\040", " ");
        Some((mount, fields.next()?.to_owned()))
    });
    // Of mounts in the same place the last one counts.
    entries.filter(|(mount, _)| path.starts_with(mount)).max_by_key(|(mount, _)| mount.len())
}

fn data_directory(path: &Path) -> DataDirectory {
    let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    let version = fs::read_to_string(path.join("PG_VERSION")).ok().map(|text| text.trim().to_owned());
    let control = fs::read(path.join("global/pg_control")).unwrap_or_default();
    // It has been the first field since there is one.
    let identifier = control.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes).to_string());
    DataDirectory { is_empty, version, system_identifier: identifier }
}

fn etcd(host: &Host, data_dir: Option<&str>) -> Etcd {
    let text = fs::read_to_string(host.path(ETCD_SETTINGS)).unwrap_or_default();
    let settings = settings(&text);
    let setting = |name: &str| settings.get(name).map(|value| (*value).to_owned());
    Etcd {
        has_data: data_dir.is_some_and(|path| host.path(path).join("member").is_dir()),
        data_dir: setting("ETCD_DATA_DIR"),
        token: setting("ETCD_INITIAL_CLUSTER_TOKEN"),
        name: setting("ETCD_NAME"),
    }
}

/// The assignments of an environment file.
fn settings(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim().trim_matches(['"', '\'']))).collect()
}

fn agent(path: &Path) -> Option<Agent> {
    let text = fs::read_to_string(path).ok()?;
    let document = Document::parse(path, text).ok()?;
    let value = document.value();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Agent {
        scope: text(&value["scope"]),
        name: text(&value["name"]),
        data_dir: text(&value["postgresql"]["data_dir"]),
    })
}

/// Whether pgfleet has written a file; none where there is no file.
fn is_own(host: &Host, path: &str) -> Option<bool> {
    let text = fs::read_to_string(host.path(path)).ok()?;
    Some(text.lines().any(|line| line.starts_with(MARK)))
}

fn foreign_files(host: &Host) -> Vec<String> {
    let foreign = |path: &&str| is_own(host, path) == Some(false);
    [HAPROXY_SETTINGS, KEEPALIVED_SETTINGS].into_iter().filter(foreign).map(str::to_owned).collect()
}

/// A unit that runs has a control group, and one that is to run at boot a link.
fn rivals(host: &Host) -> Vec<String> {
    let places = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice", WANTED];
    let present =
        |unit: &&str| places.iter().any(|place| host.path(place).join(unit).symlink_metadata().is_ok());
    RIVALS.into_iter().filter(present).map(str::to_owned).collect()
}

/// What the store has of the cluster; none when it does not answer.
async fn ask_store(store: &Store) -> Option<StoreFolder> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut end = store.folder.clone().into_bytes();
    // The key after all that begin with the folder.
    *end.last_mut()? += 1;
    let range = json!({"key": STANDARD.encode(&store.folder), "range_end": STANDARD.encode(end)});
    let url = format!("{}/v3/kv/range", store.url);
    let call = Call::send(Method::POST, &url, range.to_string()).tls(&store.tls);
    let answer = call.run().await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)?;
    let initialize = STANDARD.encode(format!("{}initialize", store.folder));
    let keys = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let value = keys.iter().find(|key| key["key"] == initialize.as_str());
    let value = value.and_then(|key| STANDARD.decode(key["value"].as_str()?).ok());
    Some(StoreFolder {
        keys: keys.len() as u64,
        system_identifier: value.and_then(|value| String::from_utf8(value).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, content).expect("written");
        }
        let host = Host::at(root.path());
        (root, host)
    }

    #[tokio::test]
    async fn an_empty_host_has_nothing() {
        let (_root, host) = root(&[]);
        let questions = Questions {
            postgres_data_dir: Some("/pg".into()),
            etcd_data_dir: Some("/etcd".into()),
            ..Questions::default()
        };
        let survey = survey(&host, &questions).await;
        let empty = DataDirectory { is_empty: true, ..DataDirectory::default() };
        assert_eq!(survey, Survey { clock_ms: survey.clock_ms, data: Some(empty), ..Survey::default() });
    }

    #[tokio::test]
    async fn what_an_earlier_cluster_left_is_seen() {
        let (_root, host) = root(&[
            ("pg/PG_VERSION", b"17\n"),
            ("pg/global/pg_control", &7_391_234_567_890_123_456_u64.to_ne_bytes()),
            ("etcd/member/snap/db", b""),
            (
                "etc/default/etcd",
                b"# of old\nETCD_NAME=\"e1\"\nETCD_DATA_DIR=/etcd\nETCD_INITIAL_CLUSTER_TOKEN='old'\n",
            ),
            (
                "etc/pgfleet/agent.yml",
                b"scope: old\nname: pg1\npostgresql: {data_dir: /pg, authentication: {}}\n",
            ),
            ("etc/haproxy/haproxy.cfg", b"global\n  maxconn 1\n"),
            ("etc/keepalived/keepalived.conf", b"# Managed by pgfleet.\n"),
            ("etc/systemd/system/multi-user.target.wants/patroni.service", b""),
        ]);
        let questions = Questions {
            postgres_data_dir: Some("/pg".into()),
            etcd_data_dir: Some("/etcd".into()),
            ..Questions::default()
        };
        let survey = survey(&host, &questions).await;
        let data = survey.data.expect("asked for");
        assert_eq!((data.is_empty, data.version.as_deref()), (false, Some("17")));
        assert_eq!(data.system_identifier.as_deref(), Some("7391234567890123456"));
        assert_eq!((survey.etcd.has_data, survey.etcd.token.as_deref()), (true, Some("old")));
        assert_eq!(survey.agent.expect("a file").scope, "old");
        assert_eq!((survey.foreign_files, survey.own_keepalived), (vec![HAPROXY_SETTINGS.to_owned()], true));
        assert_eq!(survey.rivals, ["patroni.service"]);
    }

    #[test]
    fn the_deepest_mount_counts_and_of_those_the_last() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /var ext4 rw 0 0\ntmpfs /var tmpfs rw 0 0\n";
        let found = |path: &str| mounted_on(Path::new(path), mounts).expect("a mount");
        assert_eq!(found("/var/lib"), ("/var".to_owned(), "tmpfs".to_owned()));
        assert_eq!(found("/variety"), ("/".to_owned(), "ext4".to_owned()));
    }
}
