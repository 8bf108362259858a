//! What an upgrade has to know of hosts and servers, asked through the connections to them.

use super::{
    Control, Touched,
    judge::{Found, Room, Server},
};
use crate::{
    cluster::{
        Access, observe, sql,
        topology::{AgentHost, Topology},
    },
    model::{HostName, PgMajor, Secret},
    ssh::quote,
};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// How long a server may take to answer a query.
const PATIENCE: Duration = Duration::from_secs(15);

/// A checkpoint writes all that is dirty.
const CHECKPOINT: Duration = Duration::from_secs(1800);

/// Something could not be learnt.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {what}: {why}")]
pub struct LookError {
    pub host: HostName,
    pub what: &'static str,
    pub why: String,
}

/// Where a version of PostgreSQL is on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub data_dir: String,
    pub bin_dir: String,
}

/// Prints what is true of a host, a fact per line.
const FACTS: &str = r#"
d=$new; while ! test -d "$d"; do d=$(dirname "$d"); done
echo "data $(du -sxB1 "$old" 2>/dev/null | cut -f1)"
echo "free $(df -PB1 "$d" | awk 'NR == 2 { print $4 }')"
test "$(stat -c %d "$old")" = "$(stat -c %d "$d")" && echo one-file-system
if ! test -e "$new.upgrade/note.json" && test -n "$(ls -A "$new" 2>/dev/null)"; then echo foreign; fi
probe=$(mktemp "$(dirname "$old")/.pgfleet.XXXXXX") && echo x > "$probe"
cp --reflink=always "$probe" "$probe.clone" 2>/dev/null && echo reflink
rm -f "$probe" "$probe.clone"
if test -x "$bin/postgres" && test -x "$bin/pg_upgrade"; then
  echo programs
  share=$("$bin/pg_config" --sharedir 2>/dev/null)
  for file in "$share"/extension/*.control; do echo "extension $(basename "$file" .control)"; done
fi
true
"#;

/// What is on a host that is to be upgraded from one place to another.
pub async fn found(access: &Access, host: &HostName, old: &Place, new: &Place) -> Result<Found, LookError> {
    let script = format!(
        "old={}; new={}; bin={}{FACTS}",
        quote(old.data_dir.trim_end_matches('/')),
        quote(new.data_dir.trim_end_matches('/')),
        quote(&new.bin_dir)
    );
    let text = run(access, host, "its files cannot be looked at", &script).await?;
    let mut found = read(&text);
    found.same_directory = old.data_dir == new.data_dir || old.bin_dir == new.bin_dir;
    Ok(found)
}

fn read(text: &str) -> Found {
    let mut found = Found::default();
    for line in text.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("data", bytes) => found.room.data_bytes = bytes.parse().unwrap_or(u64::MAX),
            ("free", bytes) => found.room = Room { free_bytes: bytes.parse().unwrap_or(0), ..found.room },
            ("one-file-system", _) => found.one_file_system = true,
            ("foreign", _) => found.foreign = true,
            ("reflink", _) => found.reflink = true,
            ("programs", _) => found.programs = true,
            ("extension", name) => drop(found.extensions.insert(name.to_owned())),
            _ => {}
        }
    }
    found
}

/// Of these settings, those that the version at `place` does not have. Its data directory has to be there.
pub async fn unknown(
    access: &Access,
    host: &HostName,
    place: &Place,
    settings: &[String],
) -> Result<Vec<String>, LookError> {
    // Those with a dot belong to extensions, which are not loaded here. Names alone are arguments.
    let plain = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let names: Vec<&str> = settings.iter().filter(plain).map(String::as_str).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let script = format!(
        "cd /; for name in {}; do runuser -u postgres -- {} -D {} -C \"$name\" 2>&1 > /dev/null | \
         grep -q 'unrecognized configuration parameter' && echo \"$name\"; done; true",
        names.join(" "),
        quote(&format!("{}/postgres", place.bin_dir)),
        quote(&place.data_dir)
    );
    let text = run(access, host, "the new version cannot be asked for its settings", &script).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The control file of a data directory.
pub async fn control(access: &Access, host: &HostName, place: &Place) -> Result<Control, LookError> {
    const WHAT: &str = "its control file cannot be read";
    let program = quote(&format!("{}/pg_controldata", place.bin_dir));
    let script = format!("LC_ALL=C {program} -D {}", quote(&place.data_dir));
    let text = run(access, host, WHAT, &script).await?;
    text.parse().map_err(|why| LookError { host: host.clone(), what: WHAT, why })
}

/// The statements that bring extensions to the versions that come with the new server.
pub async fn extension_updates(access: &Access, host: &HostName, place: &Place) -> Result<String, LookError> {
    let file = format!("{}.upgrade/update_extensions.sql", place.data_dir.trim_end_matches('/'));
    let file = quote(&file);
    let script = format!("if test -e {file}; then cat {file}; fi");
    run(access, host, "what pg_upgrade has left cannot be read", &script).await
}

async fn run(
    access: &Access,
    host: &HostName,
    what: &'static str,
    script: &str,
) -> Result<String, LookError> {
    let wrong = |why: String| LookError { host: host.clone(), what, why };
    let session = access.session(host).map_err(|error| wrong(error.to_string()))?;
    let output = session.run_as(script, b"", true).await.map_err(|error| wrong(error.problem.to_string()))?;
    match output.status {
        0 => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        code => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(wrong(format!("exit code {code}: {}", said.trim())))
        }
    }
}

const ASK: &str = "SELECT json_build_object(
    'prepared', (SELECT coalesce(json_agg(gid), '[]') FROM pg_prepared_xacts),
    'slots', (SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots
              WHERE slot_type = 'logical' AND NOT temporary),
    'tablespaces', (SELECT coalesce(json_agg(spcname), '[]') FROM pg_tablespace
                    WHERE pg_tablespace_location(oid) <> ''),
    'databases', (SELECT json_agg(datname) FROM pg_database WHERE datallowconn))";

const EXTENSIONS: &str = "SELECT coalesce(json_agg(extname), '[]') FROM pg_extension";

/// The major version that the members run; `None` where they do not answer, or not with one voice.
pub async fn version(topology: &Topology, access: &Access) -> Option<PgMajor> {
    let nodes = topology.agents.iter().map(|agent| observe::node(access, agent));
    let nodes = futures_util::future::join_all(nodes).await;
    let versions = nodes.into_iter().filter_map(|node| node.ok()?.server_version);
    let majors: BTreeSet<PgMajor> = versions.filter_map(|num| PgMajor::of_version_num(num).ok()).collect();
    let mut majors = majors.into_iter();
    majors.next().filter(|_| majors.next().is_none())
}

/// What the server that leads says of itself.
pub async fn server(
    access: &Access,
    agent: &AgentHost,
    superuser: &(String, Secret),
) -> Result<Server, sql::SqlError> {
    let endpoint = (agent.address.as_str(), agent.postgres_port);
    let client = sql::connect(access, &agent.name, endpoint, superuser, PATIENCE).await?;
    let answer = sql::text(&client, ASK, PATIENCE).await?.unwrap_or_default();
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let mut server = Server {
        prepared: texts(&answer["prepared"]),
        logical_slots: texts(&answer["slots"]),
        tablespaces: texts(&answer["tablespaces"]),
        ..Server::default()
    };
    for database in texts(&answer["databases"]) {
        let login = (endpoint, database.as_str());
        let client = sql::connect_to(access, &agent.name, login, superuser, PATIENCE).await?;
        let names = sql::text(&client, EXTENSIONS, PATIENCE).await?.unwrap_or_default();
        let names = texts(&serde_json::from_str(&names).unwrap_or_default());
        server.extensions.extend(names.into_iter().map(|name| (database.clone(), name)));
    }
    Ok(server)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Has a server write out what is dirty, so that its shutdown takes little.
pub async fn checkpoint(
    access: &Access,
    agent: &AgentHost,
    superuser: &(String, Secret),
) -> Result<(), sql::SqlError> {
    let endpoint = (agent.address.as_str(), agent.postgres_port);
    let client = sql::connect(access, &agent.name, endpoint, superuser, PATIENCE).await?;
    sql::execute(&client, "CHECKPOINT", CHECKPOINT).await
}

/// What has become of the new cluster: asked of its server where one answers, else of its control file.
pub async fn touched(
    access: &Access,
    agent: &AgentHost,
    superuser: &(String, Secret),
    (place, fresh): (&Place, &Control),
) -> Result<Touched, LookError> {
    let endpoint = (agent.address.as_str(), agent.postgres_port);
    if let Ok(client) = sql::connect(access, &agent.name, endpoint, superuser, PATIENCE).await {
        // The next number that a transaction gets once it writes, with the epoch before it as in the control file.
        let query = "SELECT (x >> 32) || ':' || (x & 4294967295)
            FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) AS next(x)";
        if let Ok(Some(next_xid)) = sql::text(&client, query, PATIENCE).await {
            let written = next_xid != fresh.next_xid;
            return Ok(if written { Touched::Written } else { Touched::Started });
        }
    }
    Ok(Touched::since(fresh, &control(access, &agent.name, place).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_facts_of_a_host() {
        let text = "data 4096\nfree 1000000\none-file-system\nreflink\nprograms\nextension hstore\nextension plpgsql\n";
        let expected = Found {
            room: Room { data_bytes: 4096, free_bytes: 1_000_000 },
            one_file_system: true,
            reflink: true,
            programs: true,
            extensions: ["hstore", "plpgsql"].map(str::to_owned).into(),
            ..Found::default()
        };
        assert_eq!(read(text), expected);
        assert_eq!(read("data \nforeign\n").room.data_bytes, u64::MAX, "what is unknown fits nowhere");
    }
}
