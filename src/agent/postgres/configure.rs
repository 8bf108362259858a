//! The configuration files of the server, and changes to them while it runs.
//!
//! `postgresql.conf` is generated. What was there before is kept as `postgresql.base.conf` and included
//! first. Orders that are no settings (who to stream from, who to wait for) are lines of the same file,
//! and are read back from it by an agent that was restarted.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Error, Server, Settings, connection, files,
    parameters::{OWN, Plan, is_recovery_order, same_value},
};

/// A parameter whose value waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub old: String,
    pub new: String,
}

/// What a change of settings came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconfigured {
    /// Files differed, and a running server has read them again.
    pub reloaded: bool,
    /// Parameters that take effect with the next restart, by name.
    pub pending_restart: BTreeMap<String, Change>,
    /// Parameters that were left out because this PostgreSQL does not know them.
    pub unknown_parameters: Vec<String>,
}

/// What the server was told beyond its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub primary_conninfo: String,
    pub primary_slot_name: String,
    /// `None`: left to the settings.
    pub synchronous_standby_names: Option<String>,
}

const HEADER: &str = "# Written by pgfleet and overwritten with the next change. Parameters belong into the cluster's\n\
                      # configuration; what was in this file before is in postgresql.base.conf.\n";
const ORDERS: &str = "# Orders of the moment.\n";
/// How long a server that answers may take to read its files again.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);
const BASE: &str = "postgresql.base.conf";

impl Server {
    /// Takes new settings. A running server gets files that differ and reads them again; the answer says
    /// what waits for a restart. Errors: a file cannot be written, or the server refuses a value (then
    /// with its line and reason; what it could take is in effect).
    pub async fn reconfigure(&self, settings: Settings) -> Result<Reconfigured, Error> {
        self.update(settings);
        if self.adopt().is_none() {
            return Ok(Reconfigured::default());
        }
        let plan = self.plan(None).await?;
        let orders = self.orders()?.with_role_of(&self.settings());
        let changed = self.write_files(&orders, &plan)?;
        if changed {
            self.reload_and_wait().await?;
        }
        let pending_restart = self.compare_with_running(&plan).await?;
        Ok(Reconfigured { reloaded: changed, pending_restart, unknown_parameters: plan.unknown })
    }

    /// What waits for a restart, of the settings in force.
    pub async fn waiting_for_restart(&self) -> Result<BTreeMap<String, Change>, Error> {
        let plan = self.plan(None).await?;
        self.compare_with_running(&plan).await
    }

    /// Says which standbys a commit waits for; empty: none. `None` leaves it to the settings. It is in
    /// effect when this returns. Returns whether anything changed.
    pub async fn set_synchronous_standby_names(&self, names: Option<&str>) -> Result<bool, Error> {
        let mut orders = self.orders()?;
        orders.synchronous_standby_names = names.map(str::to_owned);
        if !self.write_orders(orders)? {
            return Ok(false);
        }
        if self.adopt().is_some() {
            self.reload_and_wait().await?;
        }
        Ok(true)
    }

    /// The orders in force: remembered, or read from the file that an earlier agent wrote.
    pub(super) fn orders(&self) -> Result<Orders, Error> {
        if let Some(orders) = self.remember(|memory| memory.orders.clone()) {
            return Ok(orders);
        }
        let text = files::read(&self.settings().config_dir().join("postgresql.conf"))?.unwrap_or_default();
        let orders = parse_orders(&text);
        self.remember(|memory| memory.orders = Some(orders.clone()));
        Ok(orders)
    }

    /// Puts orders into the configuration as it is on disk. Tells whether that changed it.
    pub(super) fn write_orders(&self, orders: Orders) -> Result<bool, Error> {
        let path = self.settings().config_dir().join("postgresql.conf");
        let text = files::read(&path)?.unwrap_or_default();
        let kept = text.split(ORDERS).next().unwrap_or_default();
        let changed = files::write(&path, &format!("{kept}{}", render_orders(&orders)), 0o600)?;
        self.remember(|memory| memory.orders = Some(orders));
        Ok(changed)
    }

    /// Writes every configuration file. Tells whether one of them changed that a reload reads.
    pub(super) fn write_files(&self, orders: &Orders, plan: &Plan) -> Result<bool, Error> {
        let settings = self.settings();
        let folder = settings.config_dir();
        keep_base(&settings)?;
        write_pgpass(&settings)?;
        sanitise_auto_conf(&settings.data_dir)?;
        let mut changed =
            files::write(&folder.join("postgresql.conf"), &render(&settings, plan, orders), 0o600)?;
        self.remember(|memory| memory.orders = Some(orders.clone()));
        for (name, lines) in [("pg_hba.conf", &settings.hba), ("pg_ident.conf", &settings.ident)] {
            let path = folder.join(name);
            if !lines.is_empty() {
                changed |=
                    files::write(&path, &format!("# Written by pgfleet.\n{}\n", lines.join("\n")), 0o600)?;
            } else if !path.exists() {
                changed |= files::write(&path, &adopted(&settings, name)?.unwrap_or_default(), 0o600)?;
            }
        }
        Ok(changed)
    }

    /// Reloads, waits until the server has read its files, and passes on what it found wrong with them.
    async fn reload_and_wait(&self) -> Result<(), Error> {
        let before = self.loaded_at().await?;
        self.reload()?;
        let begun = Instant::now();
        while self.loaded_at().await? == before {
            if begun.elapsed() >= RELOAD_LIMIT {
                // With a file that it cannot read through, the time of loading does not move.
                self.refused_lines().await?;
                return Err(Error::Timeout { what: "reloading the configuration", limit: RELOAD_LIMIT });
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.refused_lines().await
    }

    async fn loaded_at(&self) -> Result<String, Error> {
        self.with_monitor("waiting for the reload", async |session: &connection::Session| {
            let row = session.client.query_one("SELECT pg_conf_load_time()::text", &[]).await?;
            Ok(row.get(0))
        })
        .await
    }

    async fn refused_lines(&self) -> Result<(), Error> {
        let rows = self
            .with_monitor("reading pg_file_settings", async |session: &connection::Session| {
                // The same words stand at a value that waits for a restart: that is no error.
                let query = "SELECT f.sourcefile, f.sourceline, f.name, f.error
                               FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name)
                              WHERE f.error IS NOT NULL AND NOT (f.error = 'setting could not be applied'
                                    AND coalesce(s.context, '') IN ('postmaster', 'internal'))";
                session.client.query(query, &[]).await
            })
            .await?;
        let lines: Vec<String> = rows
            .iter()
            .map(|row| {
                let (file, line): (Option<String>, Option<i32>) = (row.get(0), row.get(1));
                let (name, error): (Option<String>, String) = (row.get(2), row.get(3));
                let at = format!("{}:{}", file.unwrap_or_default(), line.unwrap_or_default());
                format!("{at}: {}{error}", name.map(|name| format!("{name}: ")).unwrap_or_default())
            })
            .collect();
        if lines.is_empty() { Ok(()) } else { Err(Error::Configuration(lines.join("; "))) }
    }

    async fn compare_with_running(&self, plan: &Plan) -> Result<BTreeMap<String, Change>, Error> {
        let names: Vec<&str> = plan.file.keys().map(String::as_str).collect();
        let rows = self
            .with_monitor("reading pg_settings", async |session: &connection::Session| {
                // What is in no file any more goes back to its default.
                let query = "SELECT name, setting, unit, vartype, pending_restart, current_setting(name),
                                    coalesce((SELECT f.setting FROM pg_file_settings f
                                               WHERE lower(f.name) = lower(s.name) ORDER BY f.seqno DESC LIMIT 1),
                                             s.boot_val, '')
                               FROM pg_settings s
                              WHERE (context = 'postmaster' AND name = ANY($1)) OR pending_restart";
                session.client.query(query, &[&names]).await
            })
            .await?;
        let mut pending = BTreeMap::new();
        for row in rows {
            let (name, setting, unit, kind): (String, String, Option<String>, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let wanted = plan.file.get(&name);
            let differs =
                wanted.is_some_and(|wanted| !same_value(&name, &kind, unit.as_deref(), wanted, &setting));
            if differs || row.get::<_, bool>(4) {
                let (old, default): (String, String) = (row.get(5), row.get(6));
                pending.insert(name, Change { old, new: wanted.cloned().unwrap_or(default) });
            }
        }
        Ok(pending)
    }
}

fn render(settings: &Settings, plan: &Plan, orders: &Orders) -> String {
    let mut text = HEADER.to_owned();
    let base = settings.custom_conf.as_ref().map_or_else(|| BASE.into(), |path| path.to_string_lossy());
    text += &format!("include {}\n\n", quoted(&base));
    let folder = settings.config_dir();
    let paths = [
        ("data_directory", settings.data_dir.clone()),
        ("hba_file", folder.join("pg_hba.conf")),
        ("ident_file", folder.join("pg_ident.conf")),
    ];
    for (name, path) in paths {
        text += &format!("{name} = {}\n", quoted(&path.to_string_lossy()));
    }
    for (name, value) in &plan.file {
        text += &format!("{name} = {}\n", quoted(value));
    }
    text + "\n" + &render_orders(orders)
}

fn render_orders(orders: &Orders) -> String {
    let mut text = ORDERS.to_owned();
    text += &format!("primary_conninfo = {}\n", quoted(&orders.primary_conninfo));
    text += &format!("primary_slot_name = {}\n", quoted(&orders.primary_slot_name));
    if let Some(names) = &orders.synchronous_standby_names {
        text += &format!("synchronous_standby_names = {}\n", quoted(names));
    }
    text
}

fn parse_orders(text: &str) -> Orders {
    let mut orders = Orders::default();
    // Without the mark the file is another agent's: what it says of these is in force all the same.
    let lines = text.split_once(ORDERS).map_or(text, |(_, lines)| lines);
    for (name, value) in lines.lines().filter_map(|line| line.split_once(" = ")) {
        match (name, unquoted(value)) {
            ("primary_conninfo", value) => orders.primary_conninfo = value,
            ("primary_slot_name", value) => orders.primary_slot_name = value,
            ("synchronous_standby_names", value) => orders.synchronous_standby_names = Some(value),
            _ => {}
        }
    }
    orders
}

/// A value of `postgresql.conf`.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
    format!("'{escaped}'")
}

fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '\'' => text.extend(characters.next()),
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                other => text.extend(other),
            },
            other => text.push(other),
        }
    }
    text
}

/// Keeps a `postgresql.conf` that is not ours as the base; makes sure that there is one to include.
fn keep_base(settings: &Settings) -> Result<(), Error> {
    let folder = settings.config_dir();
    let (base, current) = (folder.join(BASE), folder.join("postgresql.conf"));
    if settings.custom_conf.is_some() || base.exists() {
        return Ok(());
    }
    let text = match files::read(&current)? {
        Some(text) if !text.starts_with("# Written by pgfleet") => without_own(&text, false),
        Some(_) => String::new(),
        None => {
            adopted(settings, "postgresql.conf")?.map(|text| without_own(&text, true)).unwrap_or_default()
        }
    };
    files::write(&base, &text, 0o600).map(drop)
}

/// A file of a configuration that lives apart from the data, as Debian's packages make it: the options
/// of the last start tell where.
fn adopted(settings: &Settings, name: &str) -> Result<Option<String>, Error> {
    let options = files::read(&settings.data_dir.join("postmaster.opts"))?.unwrap_or_default();
    let words = shlex::split(&options).unwrap_or_default();
    let file = words.iter().find_map(|word| word.strip_prefix("config_file="));
    match file.and_then(|file| Path::new(file).parent()) {
        Some(folder) => files::read(&folder.join(name)),
        None => Ok(None),
    }
}

/// The text with lines disabled that would fight with the generated file; of a file that was `moved`,
/// also includes that are relative to where it was.
fn without_own(text: &str, moved: bool) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let name =
            line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        let name = name.to_lowercase();
        let include = moved && matches!(name.as_str(), "include" | "include_dir" | "include_if_exists");
        let own = OWN.contains(&name.as_str())
            && !matches!(name.as_str(), "listen_addresses" | "port" | "cluster_name");
        let fights = include || own || is_recovery_order(&name);
        kept += if fights { "# disabled by pgfleet: " } else { "" };
        kept += line;
        kept.push('\n');
    }
    kept
}

/// Takes out of `postgresql.auto.conf`, which overrides all other files, what a base backup with `-R`
/// or an `ALTER SYSTEM` wrote there about recovery.
fn sanitise_auto_conf(data_dir: &Path) -> Result<(), Error> {
    let path = data_dir.join("postgresql.auto.conf");
    let Some(text) = files::read(&path)? else { return Ok(()) };
    let name = |line: &str| {
        line.trim_start()
            .split(|c: char| c == '=' || c.is_whitespace())
            .next()
            .unwrap_or_default()
            .to_lowercase()
    };
    let kept: String =
        text.lines().filter(|line| !is_recovery_order(&name(line))).map(|line| format!("{line}\n")).collect();
    files::write(&path, &kept, 0o600).map(drop)
}

/// The passwords, for libpq: replication for the walreceiver and base backups, the other for rewinds.
pub(super) fn write_pgpass(settings: &Settings) -> Result<(), Error> {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let mut text = String::new();
    for role in [&settings.replication, settings.rewind_role()] {
        if let Some(password) = &role.password {
            text += &format!("*:*:*:{}:{}\n", escaped(&role.username), escaped(password.expose()));
        }
    }
    files::write(&settings.pgpass, &text, 0o600).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn orders_are_read_back(conninfo: String, slot in "[a-z0-9_]{0,63}", names: Option<String>) {
            let orders = Orders { primary_conninfo: conninfo, primary_slot_name: slot, synchronous_standby_names: names };
            prop_assert_eq!(parse_orders(&format!("port = '1'\n{}", render_orders(&orders))), orders);
        }
    }

    #[test]
    fn a_foreign_file_loses_what_would_fight_with_ours() {
        let debian = "data_directory = '/var/lib/x'\nhba_file='/etc/x'\nport = 5433\ninclude_dir = 'conf.d'\n#comment\nwork_mem = 8MB\n";
        insta::assert_snapshot!(without_own(debian, true), @r"
        # disabled by pgfleet: data_directory = '/var/lib/x'
        # disabled by pgfleet: hba_file='/etc/x'
        port = 5433
        # disabled by pgfleet: include_dir = 'conf.d'
        #comment
        work_mem = 8MB
        ");
    }

    #[test]
    fn the_file_has_parameters_then_orders() {
        let settings = Settings::of_test();
        let plan = Plan {
            file: BTreeMap::from([("archive_command".to_owned(), r"echo 'a\b'".to_owned())]),
            ..Plan::default()
        };
        insta::assert_snapshot!(render(&settings, &plan, &Orders::default()), @r"
        # Written by pgfleet and overwritten with the next change. Parameters belong into the cluster's
        # configuration; what was in this file before is in postgresql.base.conf.
        include 'postgresql.base.conf'

        data_directory = '/data'
        hba_file = '/data/pg_hba.conf'
        ident_file = '/data/pg_ident.conf'
        archive_command = 'echo ''a\\b'''

        # Orders of the moment.
        primary_conninfo = ''
        primary_slot_name = ''
        ");
    }
}
