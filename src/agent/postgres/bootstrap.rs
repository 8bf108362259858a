//! A new cluster: initdb, then the roles that replication works with.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use super::{Credentials, Error, Server, clone, configure, files, tools};
use crate::{model::Secret, secret::scram};

/// Limit of an `initdb`: seconds, unless the disk is very slow.
const INITDB_LIMIT: Duration = Duration::from_secs(300);

/// What the rewind role may call, and nothing else.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Server {
    /// Makes a new cluster in the data directory, with checksums and SCRAM, owned by the superuser of
    /// the settings. Errors: the directory is not empty, or `initdb` failed; then it is as it was.
    pub async fn initdb(&self) -> Result<(), Error> {
        let settings = self.settings();
        let target = clone::Target::prepare(&settings.data_dir, clone::Existing::Refuse)?;
        let superuser = &settings.superuser;
        let mut command = tools::command(&settings.tool("initdb"));
        command.arg("-D").arg(target.path()).arg("--username").arg(&superuser.username);
        command.args(["--data-checksums", "--auth-host=scram-sha-256"]);
        let peer = tools::user_name().as_deref() == Some(superuser.username.as_str());
        command.arg(if peer { "--auth-local=peer" } else { "--auth-local=scram-sha-256" });
        if !settings.initdb.iter().any(|(name, _)| name == "encoding") {
            command.arg("--encoding=UTF8");
        }
        // Given by us, or as harmful in the data directory of a cluster.
        let ours =
            ["data-checksums", "username", "pgdata", "pwfile", "pwprompt", "auth", "auth-host", "auth-local"];
        for (name, value) in settings.initdb.iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
            command.arg(match value {
                Some(value) => format!("--{name}={value}"),
                None => format!("--{name}"),
            });
        }
        let password_file = PasswordFile(files::beside(&settings.pgpass, ".initdb"));
        if let Some(password) = &superuser.password {
            password_file.write(password).map_err(Error::file("cannot write", &password_file.0))?;
            command.arg("--pwfile").arg(&password_file.0);
        }
        tools::run(command, "initdb", INITDB_LIMIT).await?;
        drop(password_file);
        target.finish().await
    }

    /// Makes the roles of the settings exist with their passwords and just the rights they need. What is
    /// right already is not touched. On a primary only.
    pub async fn bootstrap_roles(&self) -> Result<Vec<String>, Error> {
        let settings = self.settings();
        configure::write_pgpass(&settings)?;
        let client = self.connect(settings.query_timeout).await?;
        // With synchronous replication and no standby yet, a commit would wait for ever.
        client
            .batch_execute("SET synchronous_commit = local; SET password_encryption = 'scram-sha-256'; SET statement_timeout = '10s'")
            .await
            .map_err(Error::sql("preparing to create roles"))?;
        let mut changed = Vec::new();
        ensure_role(
            &client,
            &settings.superuser,
            "SUPERUSER LOGIN",
            "rolsuper AND rolcanlogin",
            &mut changed,
        )
        .await?;
        let replication = &settings.replication;
        if replication.username != settings.superuser.username {
            ensure_role(
                &client,
                replication,
                "REPLICATION LOGIN",
                "rolreplication AND rolcanlogin",
                &mut changed,
            )
            .await?;
        }
        if let Some(rewind) = &settings.rewind
            && rewind.username != settings.superuser.username
        {
            ensure_role(&client, rewind, "LOGIN", "rolcanlogin", &mut changed).await?;
            for function in REWIND_FUNCTIONS {
                let granted = client
                    .query_one(
                        "SELECT has_function_privilege($1::text::name, $2::text, 'EXECUTE')",
                        &[&rewind.username, &function],
                    )
                    .await
                    .map_err(Error::sql("reading the rights of the rewind role"))?;
                if !granted.get::<_, bool>(0) {
                    let grant = format!(
                        "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {}",
                        identifier(&rewind.username)
                    );
                    client
                        .batch_execute(&grant)
                        .await
                        .map_err(Error::sql("granting rights to the rewind role"))?;
                    changed.push(rewind.username.clone());
                }
            }
        }
        changed.dedup();
        Ok(changed)
    }
}

/// A password on disk for as long as `initdb` needs it, whatever becomes of that.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(&self, password: &Secret) -> io::Result<()> {
        files::remove(&self.0)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)?;
        file.write_all(password.expose().as_bytes())
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = files::remove(&self.0);
    }
}

/// The server sees a verifier, never the password.
async fn ensure_role(
    client: &tokio_postgres::Client,
    role: &Credentials,
    rights: &str,
    has_rights: &str,
    changed: &mut Vec<String>,
) -> Result<(), Error> {
    let query = format!("SELECT {has_rights}, coalesce(rolpassword, '') FROM pg_authid WHERE rolname = $1");
    let row = client.query_opt(&query, &[&role.username]).await.map_err(Error::sql("reading roles"))?;
    let name = identifier(&role.username);
    let password = |stored: &str| {
        role.password
            .as_ref()
            .filter(|password| !scram::verifies(stored, password))
            .map(|password| format!(" PASSWORD '{}'", scram::verifier(password)))
    };
    let statement = match row {
        None => Some(format!("CREATE ROLE {name} {rights}{}", password("").unwrap_or_default())),
        Some(row) => {
            let (has_rights, stored): (bool, String) = (row.get(0), row.get(1));
            match (has_rights, password(&stored)) {
                (true, None) => None,
                (_, password) => Some(format!("ALTER ROLE {name} {rights}{}", password.unwrap_or_default())),
            }
        }
    };
    if let Some(statement) = statement {
        client.batch_execute(&statement).await.map_err(Error::sql("creating a role"))?;
        changed.push(role.username.clone());
    }
    Ok(())
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
