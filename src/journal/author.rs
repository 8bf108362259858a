//! Who runs a command, and on which machine.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The variable that names somebody else than the login does: a person behind a shared account, a pipeline.
pub const VARIABLE: &str = "PGFLEET_OPERATOR";

/// `user@machine`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    pub user: String,
    pub machine: String,
}

impl Author {
    /// Who runs this process: the person who called sudo rather than root.
    pub fn here() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let machine = || {
            let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            name.unwrap_or_else(|| "unknown".to_owned())
        };
        let login = || {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).ok().flatten();
            user.map_or_else(|| nix::unistd::Uid::current().to_string(), |user| user.name)
        };
        match variable(VARIABLE) {
            Some(named) => match named.split_once('@') {
                Some((user, machine)) => Self { user: user.to_owned(), machine: machine.to_owned() },
                None => Self { user: named, machine: machine() },
            },
            None => {
                let user = variable("SUDO_USER").or_else(|| variable("USER")).unwrap_or_else(login);
                Self { user, machine: machine() }
            }
        }
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.machine)
    }
}
