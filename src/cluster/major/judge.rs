//! Whether a cluster may be brought to another major version, by what was found of it. Pure.

use crate::{
    cluster::{Status, status::is_leader},
    diagnostic::Location,
    model::PgMajor,
    remote::resource::Transfer,
};
use serde::Serialize;
use std::collections::BTreeSet;

/// What was found before anything is installed.
#[derive(Clone, Debug)]
pub struct Facts {
    pub from: PgMajor,
    pub to: PgMajor,
    pub transfer: Transfer,
    pub status: Status,
    /// The server that leads, where it could be asked.
    pub server: Option<Server>,
    pub hosts: Vec<(String, Result<Found, String>)>,
    /// Packages of the inventory that are named after the old version.
    pub stale_packages: Vec<String>,
}

/// What the server that leads says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub prepared: Vec<String>,
    pub logical_slots: Vec<String>,
    /// Those outside of the data directory.
    pub tablespaces: Vec<String>,
    /// Databases with their extensions.
    pub extensions: BTreeSet<(String, String)>,
}

/// What is on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub room: Room,
    pub same_directory: bool,
    /// The new data directory has files that no upgrade has made.
    pub foreign: bool,
    /// Whether files can share their blocks.
    pub reflink: bool,
    /// Whether both data directories are on one file system.
    pub one_file_system: bool,
    /// The new version's programs are there.
    pub programs: bool,
    /// Extensions that the new version has here.
    pub extensions: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub data_bytes: u64,
    pub free_bytes: u64,
}

/// A thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub what: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    Fine,
    /// It does not keep the upgrade from being done.
    Warning {
        next_step: String,
    },
    Problem {
        next_step: String,
    },
}

impl Point {
    pub fn is_problem(&self) -> bool {
        matches!(self.verdict, Verdict::Problem { .. })
    }
}

fn fine(what: impl Into<String>) -> Point {
    Point { what: what.into(), verdict: Verdict::Fine }
}

fn problem(what: impl Into<String>, next_step: impl Into<String>) -> Point {
    Point { what: what.into(), verdict: Verdict::Problem { next_step: next_step.into() } }
}

fn warning(what: impl Into<String>, next_step: impl Into<String>) -> Point {
    Point { what: what.into(), verdict: Verdict::Warning { next_step: next_step.into() } }
}

/// What a base backup or a copy needs besides the data: WAL that is written meanwhile.
const MARGIN_BYTES: u64 = 256 << 20;

/// Judges what can be known before the new version's packages are installed.
pub fn before(facts: &Facts) -> Vec<Point> {
    let mut points = Vec::new();
    points.push(match facts.to > facts.from {
        true => fine(format!("PostgreSQL {} -> {}", facts.from, facts.to)),
        false => problem(
            format!("the cluster runs PostgreSQL {}: {} is not newer", facts.from, facts.to),
            "name a newer version with `--to`",
        ),
    });
    points.extend(cluster(&facts.status));
    match &facts.server {
        Some(server) => points.extend(self::server(server, facts)),
        None => points.push(problem(
            "the server that leads could not be asked",
            "see whether the inventory's superuser gets in: `pgfleet psql -c 'SELECT 1'`",
        )),
    }
    for (name, found) in &facts.hosts {
        match found {
            Ok(found) => points.extend(host(name, found, facts)),
            Err(why) => points.push(problem(
                format!("{name} could not be looked at: {why}"),
                "all members have to be there: see `pgfleet status`",
            )),
        }
    }
    for package in &facts.stale_packages {
        points.push(problem(
            format!("`postgres_packages` names `{package}`, which is for PostgreSQL {}", facts.from),
            format!(
                "write `{}` in the inventory",
                package.replacen(&facts.from.to_string(), "{{ postgres_version }}", 1)
            ),
        ));
    }
    points
}

fn cluster(status: &Status) -> Vec<Point> {
    let mut points = Vec::new();
    if status.pause {
        points.push(problem("the cluster is paused", "take automatic failover up again: `pgfleet resume`"));
    }
    for wrong in &status.problems {
        points.push(problem(wrong.clone(), "a cluster is upgraded while it is well: see `pgfleet status`"));
    }
    let lagging = status.members.iter().filter(|member| !is_leader(&member.role));
    for member in lagging.filter(|member| member.lag_bytes.is_none_or(|lag| lag > 16 << 20)) {
        let lag = member.lag_bytes.map_or("by nobody knows how much".to_owned(), size);
        points.push(problem(
            format!("{} is behind the primary: {lag}", member.name),
            "wait until it has caught up: `pgfleet status`",
        ));
    }
    if points.is_empty() {
        let members = status.members.len();
        points.push(fine(format!("{members} members are well, etcd is healthy, replicas have caught up")));
    }
    points
}

fn server(server: &Server, facts: &Facts) -> Vec<Point> {
    let mut points = Vec::new();
    points.push(match server.prepared.is_empty() {
        true => fine("no transaction is prepared"),
        false => problem(
            format!("transactions are prepared: {}", server.prepared.join(", ")),
            "end them with COMMIT PREPARED or ROLLBACK PREPARED",
        ),
    });
    let kept = facts.from.number() >= 17;
    points.push(match (server.logical_slots.is_empty(), kept) {
        (true, _) => fine("no logical replication slot"),
        (false, true) => fine(format!("logical slots are kept: {}", server.logical_slots.join(", "))),
        (false, false) => problem(
            format!(
                "logical replication slots would be lost, which PostgreSQL {} cannot hand over: {}",
                facts.from,
                server.logical_slots.join(", ")
            ),
            "let their subscribers catch up and drop them (pg_drop_replication_slot), then make them anew afterwards",
        ),
    });
    if !server.tablespaces.is_empty() {
        points.push(problem(
            format!(
                "tablespaces are outside of the data directory: {}; both versions would be in one place there, \
                 which replicas cannot be copied to",
                server.tablespaces.join(", ")
            ),
            "move what is in them to pg_default (ALTER TABLE ALL IN TABLESPACE), and drop them",
        ));
    }
    points
}

fn host(name: &str, found: &Found, facts: &Facts) -> Vec<Point> {
    let leads = facts.status.leader().is_some_and(|leader| leader.name == name);
    let mut points = Vec::new();
    if found.same_directory {
        points.push(problem(
            format!("{name}: `postgres_data_dir` or `postgres_bin_dir` is the same for both versions"),
            "write it with `{{ postgres_version }}` in the inventory, so that each version has its own",
        ));
    }
    if found.foreign {
        points.push(problem(
            format!("{name}: the new data directory has files in it"),
            "move them away, or give the inventory another `postgres_data_dir`",
        ));
    }
    if leads && facts.transfer == Transfer::Clone && !found.reflink {
        points.push(problem(
            format!("{name}: its file system cannot share blocks between files"),
            "leave out `--transfer clone`: the data are copied",
        ));
    }
    if leads && facts.transfer == Transfer::Link && !found.one_file_system {
        points.push(problem(
            format!("{name}: the two data directories are on different file systems"),
            "leave out `--transfer link`: the data are copied",
        ));
    }
    let Room { data_bytes, free_bytes } = found.room;
    let shares = leads && facts.transfer != Transfer::Copy;
    let needed = MARGIN_BYTES + if shares { 0 } else { data_bytes };
    let told =
        format!("{name}: {} free, {} needed at most beside the old data", size(free_bytes), size(needed));
    points.push(match free_bytes >= needed {
        true => fine(told),
        false => problem(told, "make room there, or put the new `postgres_data_dir` elsewhere"),
    });
    points
}

/// Judges what can be known once the new version is installed beside the old one. `unknown` are the settings
/// that it does not have, with where the inventory sets them.
pub fn after(facts: &Facts, unknown: &[(String, Option<Location>)]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    for (name, found) in &facts.hosts {
        let Ok(found) = found else { continue };
        if !found.programs {
            points.push(problem(
                format!("{name} has no PostgreSQL {} in `postgres_bin_dir`", facts.to),
                "see `postgres_bin_dir` and the package sources of the host",
            ));
            continue;
        }
        for (database, extension) in facts.server.iter().flat_map(|server| &server.extensions) {
            if !found.extensions.contains(extension) {
                missing.push(format!("{extension} on {name} (database {database})"));
            }
        }
    }
    points.push(match missing.is_empty() {
        true => fine(format!("PostgreSQL {} is installed on all members, with all extensions", facts.to)),
        false => problem(
            format!("PostgreSQL {} lacks extensions: {}", facts.to, missing.join("; ")),
            "add their packages for it to `postgres_packages`, or drop the extensions",
        ),
    });
    for (setting, at) in unknown {
        let place = at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        points.push(warning(
            format!("PostgreSQL {} has no setting `{setting}`: it is left out", facts.to),
            format!("take it out of the inventory{place} when the upgrade is done"),
        ));
    }
    points
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let megabytes = bytes.div_ceil(1 << 20);
    match megabytes {
        0..10_240 => format!("{megabytes} MB"),
        _ => format!("{} GB", megabytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Dcs, Member};
    use indexmap::IndexMap;

    fn major(number: u16) -> PgMajor {
        number.try_into().unwrap()
    }

    fn member(name: &str, role: &str, lag: Option<u64>) -> Member {
        Member {
            name: name.to_owned(),
            host: name.to_owned(),
            port: 5432,
            role: role.to_owned(),
            state: "streaming".to_owned(),
            timeline: Some(1),
            lag_bytes: lag,
            pending_restart: false,
            pending_restart_reason: IndexMap::new(),
        }
    }

    fn facts() -> Facts {
        let found = Found {
            room: Room { data_bytes: 3 << 30, free_bytes: 40 << 30 },
            one_file_system: true,
            programs: true,
            extensions: ["plpgsql", "hstore"].map(str::to_owned).into(),
            ..Found::default()
        };
        Facts {
            from: major(15),
            to: major(17),
            transfer: Transfer::Copy,
            status: Status {
                cluster: "demo".to_owned(),
                healthy: true,
                problems: Vec::new(),
                pause: false,
                scheduled_switchover: None,
                members: vec![member("a", "leader", None), member("b", "replica", Some(0))],
                dcs: Dcs { kind: "etcd", members: Vec::new() },
                haproxy: Vec::new(),
                vip: None,
            },
            server: Some(Server {
                extensions: [("app".to_owned(), "hstore".to_owned())].into(),
                ..Server::default()
            }),
            hosts: vec![("a".to_owned(), Ok(found.clone())), ("b".to_owned(), Ok(found))],
            stale_packages: Vec::new(),
        }
    }

    fn told(points: &[Point]) -> String {
        let line = |point: &Point| match &point.verdict {
            Verdict::Fine => format!("ok      {}", point.what),
            Verdict::Warning { next_step } => format!("warning {}\n          {next_step}", point.what),
            Verdict::Problem { next_step } => format!("problem {}\n          {next_step}", point.what),
        };
        points.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_cluster_that_is_well_may_be_upgraded() {
        let facts = facts();
        insta::assert_snapshot!(told(&[before(&facts), after(&facts, &[])].concat()), @r"
        ok      PostgreSQL 15 -> 17
        ok      2 members are well, etcd is healthy, replicas have caught up
        ok      no transaction is prepared
        ok      no logical replication slot
        ok      a: 40 GB free, 3328 MB needed at most beside the old data
        ok      b: 40 GB free, 3328 MB needed at most beside the old data
        ok      PostgreSQL 17 is installed on all members, with all extensions
        ");
    }

    #[test]
    fn everything_that_stands_in_the_way_is_told_at_once() {
        let mut facts = facts();
        facts.from = major(17);
        facts.status.pause = true;
        facts.status.problems = vec!["etcd on etcd-3 is not healthy".to_owned()];
        facts.status.members[1].lag_bytes = Some(1 << 30);
        facts.transfer = Transfer::Clone;
        let server = facts.server.as_mut().unwrap();
        server.prepared = vec!["tx 1".to_owned()];
        server.logical_slots = vec!["cdc".to_owned()];
        server.tablespaces = vec!["fast".to_owned()];
        let found = facts.hosts[1].1.as_mut().unwrap();
        found.foreign = true;
        found.same_directory = true;
        found.room.free_bytes = 1 << 30;
        facts.stale_packages = vec!["postgresql-17-pgvector".to_owned()];
        facts.hosts.push(("c".to_owned(), Err("no route to host".to_owned())));
        insta::assert_snapshot!(told(&before(&facts)), @r"
        problem the cluster runs PostgreSQL 17: 17 is not newer
                  name a newer version with `--to`
        problem the cluster is paused
                  take automatic failover up again: `pgfleet resume`
        problem etcd on etcd-3 is not healthy
                  a cluster is upgraded while it is well: see `pgfleet status`
        problem b is behind the primary: 1024 MB
                  wait until it has caught up: `pgfleet status`
        problem transactions are prepared: tx 1
                  end them with COMMIT PREPARED or ROLLBACK PREPARED
        ok      logical slots are kept: cdc
        problem tablespaces are outside of the data directory: fast; both versions would be in one place there, which replicas cannot be copied to
                  move what is in them to pg_default (ALTER TABLE ALL IN TABLESPACE), and drop them
        problem a: its file system cannot share blocks between files
                  leave out `--transfer clone`: the data are copied
        ok      a: 40 GB free, 256 MB needed at most beside the old data
        problem b: `postgres_data_dir` or `postgres_bin_dir` is the same for both versions
                  write it with `{{ postgres_version }}` in the inventory, so that each version has its own
        problem b: the new data directory has files in it
                  move them away, or give the inventory another `postgres_data_dir`
        problem b: 1024 MB free, 3328 MB needed at most beside the old data
                  make room there, or put the new `postgres_data_dir` elsewhere
        problem c could not be looked at: no route to host
                  all members have to be there: see `pgfleet status`
        problem `postgres_packages` names `postgresql-17-pgvector`, which is for PostgreSQL 17
                  write `postgresql-{{ postgres_version }}-pgvector` in the inventory
        ");
    }

    #[test]
    fn slots_before_17_extensions_and_settings_are_named() {
        let mut facts = facts();
        facts.server.as_mut().unwrap().logical_slots = vec!["cdc".to_owned()];
        facts.hosts[0].1.as_mut().unwrap().extensions.clear();
        facts.hosts[1].1.as_mut().unwrap().programs = false;
        let at = Location::new("inventory.yml", 12, 7);
        let unknown = [("vacuum_defer_cleanup_age".to_owned(), Some(at))];
        let points = [before(&facts), after(&facts, &unknown)].concat();
        let wrong: Vec<Point> = points.into_iter().filter(|point| point.verdict != Verdict::Fine).collect();
        insta::assert_snapshot!(told(&wrong), @r"
        problem logical replication slots would be lost, which PostgreSQL 15 cannot hand over: cdc
                  let their subscribers catch up and drop them (pg_drop_replication_slot), then make them anew afterwards
        problem b has no PostgreSQL 17 in `postgres_bin_dir`
                  see `postgres_bin_dir` and the package sources of the host
        problem PostgreSQL 17 lacks extensions: hstore on a (database app)
                  add their packages for it to `postgres_packages`, or drop the extensions
        warning PostgreSQL 17 has no setting `vacuum_defer_cleanup_age`: it is left out
                  take it out of the inventory at inventory.yml:12:7 when the upgrade is done
        ");
    }
}
