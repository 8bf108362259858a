//! Replication of this member, proved: it streams, and a new connection would get in.

use super::{await_condition, postgres_roles};
use crate::remote::{
    host::{Context, Finding, Manage},
    protocol::Failure,
    psql::{Login, Server},
    wait::Look,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// `postgres_replication`: waits until this member, where it is a standby, streams as this role, and its own
/// connection string lets a new connection in: a walreceiver that streams may have connected long before a
/// password was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresReplication {
    /// The role that it streams as.
    pub user: String,
    /// The superuser to ask as, with its password for where the server asks for one on its socket.
    #[serde(default = "postgres_roles::postgres")]
    pub login_user: String,
    #[serde(default)]
    pub login_password: Option<String>,
    pub bin_dir: String,
    #[serde(default = "postgres_roles::socket_dir")]
    pub socket_dir: String,
    #[serde(default = "postgres_roles::port")]
    pub port: u16,
    /// How long to wait, in seconds.
    #[serde(default = "super::minute_secs")]
    pub timeout: u64,
}

const QUERY: &str = "SELECT json_build_object('in_recovery', pg_is_in_recovery(),
    'conninfo', current_setting('primary_conninfo'),
    'status', (SELECT status FROM pg_stat_wal_receiver));\n";

impl PostgresReplication {
    async fn look(&self, context: &Context<'_>) -> Look {
        match self.prove(context).await {
            Ok(()) => Look::Satisfied,
            Err(missing) => Look::Missing(missing),
        }
    }

    async fn prove(&self, context: &Context<'_>) -> Result<(), String> {
        let server =
            Server { bin_dir: self.bin_dir.clone(), socket_dir: self.socket_dir.clone(), port: self.port };
        let login = Login { user: self.login_user.clone(), password: self.login_password.clone() };
        let told = |failure: Failure| {
            let said = failure.last_lines.first().map(|line| format!(": {line}")).unwrap_or_default();
            format!("{}{said}", failure.message)
        };
        let found = server.document(context, &login, QUERY).await.map_err(told)?;
        let Some(conninfo) = self.judge(&found)? else { return Ok(()) };
        // Of two values of one key the last holds. Under its own name, a synchronous standby would be two.
        let conninfo =
            format!("{conninfo} application_name='pgfleet' dbname='replication' replication='true'");
        let output = server.over(context, &conninfo, "IDENTIFY_SYSTEM").await.map_err(told)?;
        if output.is_success() {
            return Ok(());
        }
        // Below it libpq tells where it had the password from.
        let said = output.last_lines().into_iter().next().unwrap_or_default();
        Err(format!("{} is not let in: {said}", self.user))
    }

    /// The connection string to try; none on a primary. The error says what is missing.
    fn judge(&self, found: &Value) -> Result<Option<String>, String> {
        if found["in_recovery"] == false {
            return Ok(None);
        }
        let conninfo = found["conninfo"].as_str().unwrap_or_default();
        if conninfo.is_empty() {
            return Err("this standby follows nobody".to_owned());
        }
        let quoted = self.user.replace('\\', "\\\\").replace('\'', "\\'");
        if !conninfo.contains(&format!("user='{quoted}'")) {
            return Err(format!("this standby does not stream as {} yet", self.user));
        }
        match found["status"].as_str() {
            Some("streaming") => Ok(Some(conninfo.to_owned())),
            Some(other) => Err(format!("this standby is {other}")),
            None => Err("this standby does not stream".to_owned()),
        }
    }
}

impl Manage for PostgresReplication {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let limit = Duration::from_secs(self.timeout);
        await_condition(context, limit, None, async || self.look(context).await).await
    }

    async fn apply(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_what_replication_lacks() {
        let arguments = json!({"user": "it's", "bin_dir": "/usr/lib/postgresql/17/bin"});
        let replication: PostgresReplication = crate::remote::arguments::read(arguments).expect("arguments");
        let judge = |conninfo: &str, status: Value| {
            replication.judge(&json!({"in_recovery": true, "conninfo": conninfo, "status": status}))
        };
        assert_eq!(replication.judge(&json!({"in_recovery": false})), Ok(None));
        let own = r"host='a' user='it\'s'";
        assert_eq!(judge(own, json!("streaming")), Ok(Some(own.to_owned())));
        assert_eq!(judge(own, json!(null)), Err("this standby does not stream".to_owned()));
        assert_eq!(judge(own, json!("stopping")), Err("this standby is stopping".to_owned()));
        assert_eq!(judge("", json!("streaming")), Err("this standby follows nobody".to_owned()));
        assert_eq!(
            judge("host='a' user='other'", json!("streaming")),
            Err("this standby does not stream as it's yet".to_owned())
        );
    }
}
