//! Roles of a PostgreSQL cluster, made and changed on whichever member is the primary.

use crate::{
    model::Secret,
    remote::{
        host::{Context, Finding, Manage, failure_with},
        protocol::Failure,
        psql::{Login, Server, identifier, literal},
    },
    secret::scram,
    yaml::Document,
};
use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// `postgres_roles`: these roles exist, with these passwords and at least these rights. A standby has them
/// from its primary, and is left alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresRoles {
    pub roles: Vec<Role>,
    /// The superuser to work as.
    #[serde(default = "postgres")]
    pub login_user: String,
    /// Its password, for where the server asks for one on its socket.
    #[serde(default)]
    pub login_password: Option<String>,
    /// The agent's configuration: its superuser is tried next, since the server may know that one still.
    #[serde(default)]
    pub agent_config: Option<String>,
    pub bin_dir: String,
    #[serde(default = "socket_dir")]
    pub socket_dir: String,
    #[serde(default = "port")]
    pub port: u16,
}

/// A role, and what it shall be able to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    pub name: String,
    /// Whatever it is, when absent.
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub attributes: Vec<Attribute>,
    /// Functions that it may call, with the types of their arguments.
    #[serde(default)]
    pub functions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    Login,
    Replication,
    Superuser,
}

impl Attribute {
    fn word(self) -> &'static str {
        match self {
            Attribute::Login => "LOGIN",
            Attribute::Replication => "REPLICATION",
            Attribute::Superuser => "SUPERUSER",
        }
    }
}

pub(super) fn postgres() -> String {
    "postgres".to_owned()
}

pub(super) fn socket_dir() -> String {
    "/var/run/postgresql".to_owned()
}

pub(super) fn port() -> u16 {
    5432
}

/// The agent makes the same roles when a cluster is new; whoever is second looks again.
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What a server says of the roles.
#[derive(Debug, Default, PartialEq, Deserialize)]
struct Found {
    in_recovery: bool,
    #[serde(default)]
    roles: Option<IndexMap<String, FoundRole>>,
    /// Roles, each with a function that it may call.
    #[serde(default)]
    calls: Option<Vec<(String, String)>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct FoundRole {
    attributes: Vec<Attribute>,
    #[serde(default)]
    verifier: Option<String>,
}

/// A statement, and what it does in words. The statement holds verifiers, never a password.
#[derive(Debug, PartialEq)]
struct Change {
    what: String,
    sql: String,
}

impl PostgresRoles {
    pub(super) fn validate(&self) -> Result<(), String> {
        match self.roles.iter().find(|role| role.name.is_empty() || role.name.len() > 63) {
            Some(role) => {
                Err(format!("`roles`: `{}` is no name for a role; expected 1 to 63 bytes", role.name))
            }
            None => Ok(()),
        }
    }

    fn server(&self) -> Server {
        Server { bin_dir: self.bin_dir.clone(), socket_dir: self.socket_dir.clone(), port: self.port }
    }

    /// Roles by name; what is said of one in several places holds together.
    fn wanted(&self) -> IndexMap<&str, Role> {
        let mut wanted: IndexMap<&str, Role> = IndexMap::new();
        for role in &self.roles {
            match wanted.get_mut(role.name.as_str()) {
                None => drop(wanted.insert(&role.name, role.clone())),
                Some(known) => {
                    known.password = known.password.take().or_else(|| role.password.clone());
                    known.attributes.extend(&role.attributes);
                    known.functions.extend(role.functions.iter().cloned());
                }
            }
        }
        wanted
    }

    fn query(&self) -> String {
        let wanted = self.wanted();
        let names: Vec<String> = wanted.keys().map(|name| literal(name)).collect();
        let calls: Vec<String> = wanted
            .values()
            .flat_map(|role| role.functions.iter().map(|call| (&role.name, call)))
            .map(|(name, call)| format!("({}, {})", literal(name), literal(call)))
            .collect();
        let calls = match calls.is_empty() {
            true => "NULL".to_owned(),
            false => format!(
                "(SELECT json_agg(json_build_array(c.name, c.call))
                    FROM (VALUES {}) c(name, call) JOIN pg_authid a ON a.rolname = c.name
                   WHERE has_function_privilege(a.oid, 'pg_catalog.' || c.call, 'EXECUTE'))",
                calls.join(", ")
            ),
        };
        format!(
            "SELECT json_build_object(
                'in_recovery', pg_is_in_recovery(),
                'roles', (SELECT json_object_agg(rolname, json_build_object(
                    'verifier', rolpassword,
                    'attributes', array_remove(ARRAY[
                        CASE WHEN rolcanlogin THEN 'login' END,
                        CASE WHEN rolreplication THEN 'replication' END,
                        CASE WHEN rolsuper THEN 'superuser' END], NULL)))
                    FROM pg_authid WHERE rolname IN ({})),
                'calls', {calls});\n",
            names.join(", ")
        )
    }

    /// What is to be done; nothing on a standby.
    fn changes(&self, found: &Found) -> Vec<Change> {
        if found.in_recovery {
            return Vec::new();
        }
        let known = |name: &str| found.roles.as_ref().and_then(|roles| roles.get(name));
        let mut changes = Vec::new();
        for (name, role) in self.wanted() {
            let verified = |stored: Option<&str>| {
                role.password.as_ref().is_none_or(|password| {
                    stored.is_some_and(|stored| scram::verifies(stored, &Secret::new(password.as_str())))
                })
            };
            let password = || match &role.password {
                Some(password) => format!(" PASSWORD '{}'", scram::verifier(&Secret::new(password.as_str()))),
                None => String::new(),
            };
            let words = |attributes: &IndexSet<Attribute>| {
                attributes.iter().map(|attribute| format!(" {}", attribute.word())).collect::<String>()
            };
            let mut missing: IndexSet<Attribute> = role.attributes.iter().copied().collect();
            match known(name) {
                None => changes.push(Change {
                    what: format!("role {name}: absent -> present"),
                    sql: format!("CREATE ROLE {}{}{}", identifier(name), words(&missing), password()),
                }),
                Some(found) => {
                    missing.retain(|attribute| !found.attributes.contains(attribute));
                    if !missing.is_empty() {
                        changes.push(Change {
                            what: format!("role {name}: gains{}", words(&missing).to_lowercase()),
                            sql: format!("ALTER ROLE {}{}", identifier(name), words(&missing)),
                        });
                    }
                    if !verified(found.verifier.as_deref()) {
                        changes.push(Change {
                            what: format!("role {name}: another password"),
                            sql: format!("ALTER ROLE {}{}", identifier(name), password()),
                        });
                    }
                }
            }
            for call in role.functions.iter().collect::<IndexSet<_>>() {
                let granted = found.calls.iter().flatten().any(|(who, what)| who == name && what == call);
                if !granted {
                    changes.push(Change {
                        what: format!("role {name}: may call {call}"),
                        sql: format!("GRANT EXECUTE ON FUNCTION pg_catalog.{call} TO {}", identifier(name)),
                    });
                }
            }
        }
        changes
    }

    /// The superusers to try, in order.
    fn logins(&self, context: &Context<'_>) -> Vec<Login> {
        let own = Login { user: self.login_user.clone(), password: self.login_password.clone() };
        let former = self.agent_config.as_ref().and_then(|path| superuser(&context.host.path(path)));
        let former = former.filter(|former| *former != own);
        [own].into_iter().chain(former).collect()
    }

    async fn look(&self, context: &Context<'_>) -> Result<(Login, Found), Failure> {
        let (server, query) = (self.server(), self.query());
        let mut refused = None;
        for login in self.logins(context) {
            match server.document(context, &login, &query).await {
                Ok(document) => {
                    let found = serde_json::from_value(document).map_err(|error| {
                        failure_with(
                            format!("unreadable roles: {error}"),
                            "report this with PostgreSQL's version",
                        )
                    })?;
                    return Ok((login, found));
                }
                // The first one says most: the next is a guess.
                Err(failure) => refused = refused.or(Some(failure)),
            }
        }
        let failure = refused.unwrap_or_default();
        let next = "see whether PostgreSQL runs on this host, and whether the inventory has the superuser's \
                    password; as `postgres` on the host, `psql` must get in";
        Err(Failure { next_step: Some(next.to_owned()), ..failure })
    }

    async fn change(&self, context: &Context<'_>) -> Result<(), Failure> {
        let (login, found) = self.look(context).await?;
        let changes = self.changes(&found);
        if changes.is_empty() {
            return Ok(());
        }
        let statements: String = changes.iter().map(|change| format!("{};\n", change.sql)).collect();
        let script = format!("BEGIN;\n{statements}COMMIT;\n");
        let output = self.server().run(context, &login, &script).await?;
        if output.is_success() {
            return Ok(());
        }
        Err(Failure {
            exit_code: Some(output.code),
            last_lines: output.last_lines(),
            ..failure_with(
                "the roles could not be changed",
                "run the same command again: another member may have become the primary meanwhile",
            )
        })
    }
}

/// The superuser of an agent's configuration.
fn superuser(path: &std::path::Path) -> Option<Login> {
    let document = Document::read(path).ok()?;
    let superuser = document.value().pointer("/postgresql/authentication/superuser")?.clone();
    let text = |name: &str| superuser.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Login { user: text("username")?, password: text("password") })
}

impl Manage for PostgresRoles {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let found = match self.look(context).await {
            Ok((_, found)) => found,
            Err(_) if context.anticipates_change() => {
                return Ok(Finding::changed("roles of a cluster that is yet to be made"));
            }
            Err(failure) => return Err(failure),
        };
        let mut finding = Finding::unchanged().with("in_recovery", found.in_recovery);
        for change in self.changes(&found) {
            finding.differs(change.what);
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        for _ in 1..ATTEMPTS {
            if self.change(context).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.change(context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn roles() -> PostgresRoles {
        let arguments = json!({"bin_dir": "/usr/lib/postgresql/17/bin", "roles": [
            {"name": "postgres", "password": "one", "attributes": ["superuser", "login"]},
            {"name": "it's", "password": "two", "attributes": "login", "functions": ["pg_ls_dir(text)"]},
            {"name": "it's", "attributes": ["replication"]},
        ]});
        crate::remote::arguments::read(arguments).expect("arguments")
    }

    fn told(found: Value) -> Vec<String> {
        let found = serde_json::from_value(found).expect("a finding");
        roles().changes(&found).into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn says_what_roles_lack() {
        let one = scram::verifier(&Secret::new("one"));
        let two = scram::verifier(&Secret::new("two"));
        let postgres = json!({"attributes": ["login", "superuser"], "verifier": one});
        let right = json!({"attributes": ["login", "replication"], "verifier": two});
        let call = json!([["it's", "pg_ls_dir(text)"]]);
        let nothing: [&str; 0] = [];
        assert_eq!(
            told(
                json!({"in_recovery": false, "roles": {"postgres": postgres, "it's": right}, "calls": call})
            ),
            nothing
        );
        assert_eq!(told(json!({"in_recovery": true, "roles": null, "calls": null})), nothing);
        assert_eq!(
            told(json!({"in_recovery": false, "roles": null, "calls": null})),
            [
                "role postgres: absent -> present",
                "role it's: absent -> present",
                "role it's: may call pg_ls_dir(text)"
            ]
        );
        let other = json!({"attributes": ["login"], "verifier": one});
        assert_eq!(
            told(
                json!({"in_recovery": false, "roles": {"postgres": postgres, "it's": other}, "calls": call})
            ),
            ["role it's: gains replication", "role it's: another password"]
        );
    }

    #[test]
    fn statements_hold_no_password_and_quote_names() {
        let found = Found::default();
        let sql: Vec<String> = roles().changes(&found).into_iter().map(|change| change.sql).collect();
        assert!(
            sql[1].starts_with("CREATE ROLE \"it's\" LOGIN REPLICATION PASSWORD 'SCRAM-SHA-256$4096:"),
            "{sql:?}"
        );
        assert!(!sql.concat().contains("two"), "{sql:?}");
        assert!(roles().query().contains("('it''s', 'pg_ls_dir(text)')"), "{}", roles().query());
    }
}
