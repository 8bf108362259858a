//! SQL on the target's own server, through `psql` as a user of the operating system: what the agent itself is
//! let in by. Passwords and statements never are arguments of a process, and leave no line in the server's log.

use crate::remote::{
    command::{Invocation, Output},
    host::Context,
    protocol::Failure,
};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// A superuser may set these, and only superusers come here.
const OPTIONS: &str = "-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic \
                       -c search_path=pg_catalog -c standard_conforming_strings=on -c statement_timeout=10s";

/// Where the server is, and whom it lets in.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub bin_dir: String,
    pub socket_dir: String,
    pub port: u16,
}

/// A role that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub user: String,
    /// For where the server asks for one.
    pub password: Option<String>,
}

impl Server {
    /// Runs a script on the local server.
    pub async fn run(&self, context: &Context<'_>, login: &Login, script: &str) -> Result<Output, Failure> {
        let command = self
            .command(context)
            .args(["-h", &self.socket_dir, "-p", &self.port.to_string(), "-U", &login.user, "-d", "postgres"])
            .environment("PGOPTIONS", OPTIONS)
            .environment("PGPASSWORD", login.password.as_deref().unwrap_or_default())
            .stdin(script);
        command.output(context.host).await
    }

    /// The document that a query gives; the failure has psql's last lines.
    pub async fn document(
        &self,
        context: &Context<'_>,
        login: &Login,
        query: &str,
    ) -> Result<Value, Failure> {
        let output = self.run(context, login, query).await?;
        if !output.is_success() {
            return Err(said(&output, "PostgreSQL does not answer"));
        }
        serde_json::from_str(output.stdout.trim())
            .map_err(|error| said(&output, &format!("PostgreSQL answers unreadably: {error}")))
    }

    /// Runs one command over a connection of its own, which `conninfo` describes.
    pub async fn over(
        &self,
        context: &Context<'_>,
        conninfo: &str,
        command: &str,
    ) -> Result<Output, Failure> {
        self.command(context).args(["-d", conninfo, "-c", command]).output(context.host).await
    }

    fn command(&self, context: &Context<'_>) -> Invocation {
        Invocation::new(&format!("{}/psql", self.bin_dir))
            .args(["-XAtqw", "-v", "ON_ERROR_STOP=1"])
            .environment("PGCONNECT_TIMEOUT", "5")
            .directory(Some(context.host.path("/")))
            .user(context.become_user)
            .limit(LIMIT)
    }
}

fn said(output: &Output, message: &str) -> Failure {
    Failure {
        message: message.to_owned(),
        exit_code: Some(output.code),
        last_lines: output.last_lines(),
        ..Failure::default()
    }
}

/// A string constant.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
