//! Taking a diverged server back to the history of another one.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{
    Error, Server, Upstream, configure, connection::connect_tcp, data_dir, files, follow, lifecycle, tools,
};

impl Server {
    /// Runs `pg_rewind` against `upstream`, which has to be a primary that has written a checkpoint
    /// since its promotion. The server must be down; a crash is recovered from first. Errors leave a
    /// marker if the data may be half rewound: `observe` then calls it unusable.
    pub async fn rewind(&self, upstream: &Upstream, limit: Duration) -> Result<(), Error> {
        let settings = self.settings();
        if let Some(postmaster) = self.adopt() {
            return Err(Error::AlreadyRunning { data_dir: settings.data_dir.clone(), pid: postmaster.pid() });
        }
        self.clear_remains().await?;
        configure::write_pgpass(&settings)?;
        // Crash recovery happens in single-user mode, which refuses to be a standby.
        lifecycle::set_signal_file(&settings.data_dir, false)?;
        let orders = self.orders()?.following(None, &settings);
        let plan = self.plan(None).await?;
        self.write_files(&orders, &plan)?;

        let begun = Instant::now();
        self.await_checkpoint(upstream, limit).await?;
        let role = settings.rewind_role();
        let mut source = follow::address(upstream, role, &settings);
        source.extend([
            ("dbname", "postgres".to_owned()),
            ("connect_timeout", "5".to_owned()),
            ("tcp_user_timeout", "10000".to_owned()),
        ]);
        let source = follow::pairs(&source);
        let mut command = tools::command(&settings.tool("pg_rewind"));
        command.env("LC_ALL", "C").arg("-D").arg(&settings.data_dir).arg("--source-server").arg(source);
        if settings.recovery.contains_key("restore_command")
            || settings.parameters.contains_key("restore_command")
        {
            command.arg("--restore-target-wal");
        }
        if settings.config_dir.is_some() {
            command.arg("--config-file").arg(settings.config_dir().join("postgresql.conf"));
        }
        let marker = files::beside(&settings.data_dir, data_dir::REWINDING);
        let marked = files::write(&marker, "", 0o600).is_ok();
        let result = tools::run(command, "pg_rewind", limit.saturating_sub(begun.elapsed())).await;
        if marked && !result.as_ref().is_err_and(may_have_written) {
            files::remove(&marker).map_err(Error::file("cannot remove", &marker))?;
        }
        self.remember(|memory| memory.control = None);
        // Whoever starts it by accident gets a standby that waits, not a second primary.
        lifecycle::set_signal_file(&settings.data_dir, true)?;
        result?;
        // What came with the upstream's files is the upstream's configuration.
        self.write_files(&orders, &plan)?;
        Ok(())
    }

    /// Waits until `upstream` has written a checkpoint on its timeline. Before 16, `pg_rewind` reads the
    /// timeline from the control file, which a promotion leaves to the next checkpoint: it would find
    /// nothing to do.
    async fn await_checkpoint(&self, upstream: &Upstream, limit: Duration) -> Result<(), Error> {
        let settings = self.settings();
        let at = format!("{}:{}", upstream.host, upstream.port);
        let role = settings.rewind_role();
        let mut config = tokio_postgres::Config::new();
        config.user(&role.username).dbname("postgres");
        config.application_name(settings.name.as_str()).connect_timeout(settings.query_timeout);
        if let Some(password) = &role.password {
            config.password(password.expose());
        }
        let wait = async {
            let connected = connect_tcp(&config, (&upstream.host, upstream.port), &role.ssl).await;
            let client = connected.map_err(|why| Error::Connect { at: at.clone(), why })?;
            let query = "SELECT CASE WHEN pg_is_in_recovery() THEN true
                                ELSE (SELECT timeline_id FROM pg_control_checkpoint())
                                   = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END";
            loop {
                let row = client.query_one(query, &[]).await;
                if row.map_err(Error::sql("asking for the upstream's checkpoint"))?.get(0) {
                    return Ok(());
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let late =
            Error::Timeout { what: "waiting for a checkpoint of the upstream after its promotion", limit };
        timeout(limit, wait).await.unwrap_or(Err(late))
    }
}

/// Whether a failed run may have begun to change files: it says so before, and never says it is safe.
fn may_have_written(error: &Error) -> bool {
    match error {
        Error::Spawn { .. } => false,
        Error::Tool { last_lines, .. } => {
            let harmless = [
                "could not connect",
                "connection to server",
                "source and target cluster",
                "could not find common ancestor",
                "could not find previous WAL record",
                "could not open file",
                "target server needs to use",
            ];
            !harmless.iter().any(|words| last_lines.contains(words))
        }
        _ => true,
    }
}
