//! One look at the server: its files, its process, and one query.

use tokio_postgres::Row;

use super::{
    ClusterState, ControlData, DataDir, Error, Facts, Process, Receiver, Server, Session,
    configure::Orders,
    connection, data_dir,
    process::{PidFile, Readiness},
};
use crate::model::{Lsn, Timeline};

/// What one look leaves for the next.
#[derive(Default)]
pub(super) struct Memory {
    pub control: Option<ControlData>,
    /// What the configuration on disk was told beyond the settings; `None`: not read yet.
    pub orders: Option<Orders>,
    /// The newest timeline that the postmaster with this process id was seen on.
    timeline: Option<(i32, Timeline)>,
    /// When the configuration was loaded that `pending_restart` belongs to.
    loaded_at: Option<String>,
    pending_restart: Vec<String>,
}

/// Every column is text or a plain type, and nothing in it fails on a primary, on a standby, or on any
/// supported version.
const LOOK: &str = "
SELECT pg_is_in_recovery() AS in_recovery,
       CASE WHEN NOT pg_is_in_recovery()
            THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery())) AS control_timeline,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END AS written,
       pg_last_wal_receive_lsn()::text AS received,
       pg_last_wal_replay_lsn()::text AS replayed,
       to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00' AS replayed_at,
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS replay_paused,
       receiver.status, receiver.received_tli, receiver.slot_name, receiver.sender_host, receiver.sender_port,
       receiver.latest_end_lsn::text AS latest_end,
       (SELECT coalesce(json_agg(s), '[]')::text FROM
          (SELECT coalesce(usename, '') AS usename, coalesce(sync_priority, 0) AS sync_priority,
                  coalesce(application_name, '') AS application_name, host(client_addr) AS client_addr,
                  coalesce(state, '') AS state, coalesce(sync_state, '') AS sync_state,
                  sent_lsn::text AS sent, flush_lsn::text AS flushed, replay_lsn::text AS replayed
             FROM pg_stat_replication) s) AS senders,
       (SELECT coalesce(json_agg(s), '[]')::text FROM
          (SELECT slot_name AS name, slot_type AS kind, active, restart_lsn::text AS restart, wal_status
             FROM pg_replication_slots) s) AS slots,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00' AS started_at,
       current_setting('server_version_num')::int AS server_version,
       pg_conf_load_time()::text AS loaded_at
  FROM (SELECT 1) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true";

impl Server {
    /// Looks at everything. It takes at most `query_timeout` and a little; what cannot be seen in that
    /// time is missing from the facts.
    pub async fn observe(&self) -> Facts {
        let data = data_dir::look(&self.settings().data_dir);
        let DataDir::Initialised { .. } = data else {
            // Whatever is left of a server there, a postmaster may still be running.
            let process = if self.adopt().is_some() { Process::Unresponsive } else { Process::Stopped };
            return Facts { data, control: None, process, session: None };
        };
        let (process, session) = self.look_at_process().await;
        let remembered = self.remember(|memory| memory.control.clone());
        let control = match remembered {
            // Read before the server ran, it says how the last run ended. A primary that is believed to be shut
            // down while it still writes would be succeeded too early.
            Some(control) if process == Process::Running => Some(match &session {
                Some(session) if session.in_recovery => {
                    ControlData { state: ClusterState::InArchiveRecovery, ..control }
                }
                _ => ControlData { state: ClusterState::InProduction, ..control },
            }),
            _ => match self.control_data().await {
                Ok(control) => Some(control),
                Err(error) if process == Process::Stopped => {
                    let data = DataDir::Unusable { why: error.to_string() };
                    return Facts { data, control: None, process, session: None };
                }
                Err(_) => None,
            },
        };
        let process = match (process, &control) {
            (Process::Stopped, Some(control)) if self.crashed(control) => Process::Crashed,
            _ => process,
        };
        Facts { data, control, process, session }
    }

    /// A base backup carries the state of a server that was running when it was taken: no crash.
    fn crashed(&self, control: &ControlData) -> bool {
        !control.state.is_clean()
            && control.state != ClusterState::StartingUp
            && !self.settings().data_dir.join("backup_label").exists()
    }

    async fn look_at_process(&self) -> (Process, Option<Session>) {
        let settings = self.settings();
        let readiness = || PidFile::read(&settings.data_dir).map(|file| file.readiness);
        let Some(postmaster) = self.adopt() else { return (Process::Stopped, None) };
        if postmaster.is_suspended() {
            return (Process::Unresponsive, None);
        }
        match readiness() {
            Some(Readiness::Ready) => {}
            Some(Readiness::Stopping) => return (Process::Stopping, None),
            Some(Readiness::Starting | Readiness::Standby) | None => return (Process::Starting, None),
        }
        match self.session_facts(postmaster.pid()).await {
            Ok(session) => (Process::Running, Some(session)),
            // It may have gone while we were asking.
            Err(_) if !postmaster.is_alive() => (Process::Stopped, None),
            Err(_) if readiness() == Some(Readiness::Stopping) => (Process::Stopping, None),
            Err(_) => (Process::Unresponsive, None),
        }
    }

    pub(super) async fn session_facts(&self, pid: i32) -> Result<Session, Error> {
        let row = self
            .with_monitor("looking at the server", async |session: &connection::Session| {
                let look = session.look.get_or_try_init(|| session.client.prepare(LOOK)).await?;
                session.client.query_one(look, &[]).await
            })
            .await?;
        let mut facts = session_of(&row).map_err(Error::sql("reading the server's state"))?;
        if facts.in_recovery {
            facts.timeline = self.remember(|memory| {
                let known =
                    memory.timeline.filter(|(owner, _)| *owner == pid).map_or(0, |(_, timeline)| timeline);
                let timeline = facts.timeline.max(known);
                memory.timeline = Some((pid, timeline));
                timeline
            });
        }
        let loaded_at: String = row.try_get("loaded_at").map_err(Error::sql("reading the server's state"))?;
        facts.pending_restart = self.pending_restart(loaded_at).await?;
        Ok(facts)
    }

    /// Reading `pg_settings` is the expensive part of a look, and it changes with a reload alone.
    async fn pending_restart(&self, loaded_at: String) -> Result<Vec<String>, Error> {
        let known = self.remember(|memory| {
            (memory.loaded_at.as_ref() == Some(&loaded_at)).then(|| memory.pending_restart.clone())
        });
        if let Some(names) = known {
            return Ok(names);
        }
        let rows = self
            .with_monitor("reading pg_settings", async |session: &connection::Session| {
                session
                    .client
                    .query("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name", &[])
                    .await
            })
            .await?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        self.remember(|memory| {
            memory.loaded_at = Some(loaded_at);
            memory.pending_restart = names.clone();
        });
        Ok(names)
    }
}

fn session_of(row: &Row) -> Result<Session, tokio_postgres::Error> {
    let lsn = |column: &str| -> Result<Option<Lsn>, tokio_postgres::Error> {
        let text: Option<&str> = row.try_get(column)?;
        Ok(text.and_then(|text| text.parse().ok()))
    };
    let number = |column: &str| -> Result<Option<Timeline>, tokio_postgres::Error> {
        let number: Option<i32> = row.try_get(column)?;
        Ok(number.and_then(|number| number.try_into().ok()))
    };
    let list = |column: &str| row.try_get::<_, &str>(column);
    let status: Option<String> = row.try_get("status")?;
    let received_timeline = number("received_tli")?;
    let receiver = match status {
        Some(status) => Some(Receiver {
            status,
            timeline: received_timeline,
            slot: row.try_get("slot_name")?,
            sender_host: row.try_get("sender_host")?,
            sender_port: number("sender_port")?.and_then(|port| port.try_into().ok()),
            latest_end: lsn("latest_end")?,
        }),
        None => None,
    };
    let in_recovery = row.try_get("in_recovery")?;
    let timeline = match number("timeline")? {
        Some(timeline) => timeline,
        None => number("control_timeline")?.max(received_timeline).unwrap_or_default(),
    };
    Ok(Session {
        in_recovery,
        timeline,
        written: lsn("written")?,
        received: lsn("received")?.filter(|_| in_recovery),
        replayed: lsn("replayed")?.filter(|_| in_recovery),
        replayed_at: row.try_get("replayed_at")?,
        replay_paused: row.try_get("replay_paused")?,
        receiver,
        senders: serde_json::from_str(list("senders")?).unwrap_or_default(),
        slots: serde_json::from_str(list("slots")?).unwrap_or_default(),
        synchronous_standby_names: row.try_get("synchronous_standby_names")?,
        postmaster_started_at: row.try_get("started_at")?,
        server_version: number("server_version")?.unwrap_or_default(),
        pending_restart: Vec::new(),
    })
}
