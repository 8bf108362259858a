//! Who: hosts, groups and variables, read from Ansible-shaped YAML and checked strictly.
//!
//! Owns what an inventory says and what it means: precedence, defaults, generated passwords, patterns. Never
//! connects to a host, and never decides what is done to one. Start reading at [`Inventory::load`]; `catalogue`
//! has a row for each variable.

mod assign;
pub mod catalogue;
mod certificates;
mod check;
mod connection;
mod edit;
mod extra;
mod fill;
mod generated;
mod guess;
mod load;
mod merge;
mod pattern;
mod range;
pub mod reference;
mod settings;
mod sketch;
mod source;
#[cfg(test)]
mod tests;
mod tree;
pub mod variable;

pub use certificates::{Certificate, Rotation, lasting_secrets, rotate};
pub use connection::Connection;
pub use generated::{Generated, vet_secret};
pub use guess::{Guess, differing, guesses};
pub use settings::{Credentials, Dcs, Ports, Vip};
pub use sketch::{Machine, Sketch};

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    model::{HostName, Scope, Secret},
    pki::Authority,
    secret::Keyring,
    template::Templates,
};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The hosts of one cluster and what is known about them. It has been checked: see `check`.
pub struct Inventory {
    pub path: PathBuf,
    pub cluster: Scope,
    pub hosts: IndexMap<HostName, Host>,
    /// Every group with its hosts, those of its children included, in the inventory's order. `all` and the
    /// groups of the catalogue are always there.
    pub groups: IndexMap<String, Vec<HostName>>,
    /// What is odd but not wrong.
    pub warnings: Vec<Diagnostic>,
    /// The secrets that the cluster needs and that are generated where nobody sets them.
    pub generated: Vec<Generated>,
    /// Who signs the certificates of its services; `None`: they have no TLS.
    authority: Option<Authority>,
    extra: Map<String, Value>,
    global: Map<String, Value>,
    drafts: IndexMap<HostName, merge::Draft>,
    /// What secrets were before a rotation that has not ended.
    former: Vec<Secret>,
}

/// One machine.
pub struct Host {
    pub name: HostName,
    pub connection: Connection,
    /// Its groups without `all`, general ones first.
    pub groups: Vec<String>,
    /// Every variable with its value, defaults filled in. What follows from the host itself is missing until
    /// [`Inventory::complete`] is asked.
    pub vars: Map<String, Value>,
}

impl Host {
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

impl Inventory {
    /// Reads and checks an inventory with what lies beside it. `extra_vars` are arguments of `-e`. Passwords
    /// that nobody set are generated once and kept in `NAME.secrets.yml` beside the inventory. What is sealed
    /// is opened with passphrases of the environment.
    ///
    /// The error holds everything that is wrong, each with its place.
    pub fn load(path: &Path, extra_vars: &[String]) -> Result<Inventory, Diagnostics> {
        Self::load_with(path, extra_vars, &Keyring::of_environment())
    }

    /// As [`Inventory::load`], with these passphrases.
    pub fn load_with(path: &Path, extra_vars: &[String], keys: &Keyring) -> Result<Inventory, Diagnostics> {
        load::load(path, extra_vars, &[], load::Passwords::Keep, keys)
    }

    /// As [`Inventory::load_with`], as if these hosts were not in it: what it is to be once they have left.
    pub fn load_without(
        path: &Path,
        extra_vars: &[String],
        keys: &Keyring,
        leaving: &[HostName],
    ) -> Result<Inventory, Diagnostics> {
        load::load(path, extra_vars, leaving, load::Passwords::Keep, keys)
    }

    /// As [`Inventory::load`], but writes nothing: passwords that nobody set differ from call to call.
    pub fn inspect(path: &Path, extra_vars: &[String]) -> Result<Inventory, Diagnostics> {
        Self::inspect_with(path, extra_vars, &Keyring::of_environment())
    }

    /// As [`Inventory::inspect`], with these passphrases.
    pub fn inspect_with(
        path: &Path,
        extra_vars: &[String],
        keys: &Keyring,
    ) -> Result<Inventory, Diagnostics> {
        load::load(path, extra_vars, &[], load::Passwords::Forget, keys)
    }

    /// The hosts that a pattern matches (`a:b`, `a:&b`, `a:!b`, globs, `all`), in the inventory's order.
    pub fn select(&self, pattern: &str) -> Result<Vec<&Host>, Diagnostic> {
        pattern::select(self, pattern)
    }

    /// The hosts of a group, in the inventory's order; none for a group that there isn't.
    pub fn group(&self, name: &str) -> impl Iterator<Item = &Host> {
        self.groups.get(name).into_iter().flatten().filter_map(|host| self.hosts.get(host))
    }

    /// What a host's templates see: its variables, `inventory_hostname` and `group_names`. What all hosts have
    /// in common is in [`Inventory::global_variables`], to be shared with the templates once.
    pub fn variables(&self, host: &Host) -> Map<String, Value> {
        let mut vars = host.vars.clone();
        vars.extend(load::magic(host.name.as_str(), &host.groups));
        vars
    }

    /// As [`Inventory::variables`], with what follows from the host's own facts: the distribution's version of
    /// PostgreSQL, the interface of the address, templates that use facts.
    pub fn complete(
        &self,
        host: &Host,
        facts: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Diagnostics> {
        let Some(draft) = self.drafts.get(&host.name) else { return Ok(self.variables(host)) };
        let mut wrong = Diagnostics::default();
        let mut templates = Templates::new(Vec::new())?;
        // What all hosts share is large, and few variables hold a template.
        if draft.is_templated() {
            templates.share(&self.global)?;
        }
        let mut base = load::magic(host.name.as_str(), &host.groups);
        base.insert("ansible_facts".to_owned(), Value::Object(facts.clone()));
        base.extend(facts.iter().map(|(name, value)| (format!("ansible_{name}"), value.clone())));
        let filled = fill::fill(draft, &self.groups, &base, facts, &templates, &mut wrong);
        wrong.into_warnings()?;
        let mut vars = filled.vars;
        let certificates = certificates::VARIABLES.into_iter();
        vars.extend(certificates.filter_map(|name| Some((name.to_owned(), host.vars.get(name)?.clone()))));
        // Facts and `inventory_hostname`, for playbooks and templates.
        vars.extend(base);
        Ok(vars)
    }

    /// What is the same for all hosts: `groups`, `hostvars`, the cluster's variables, and the members of each
    /// group with address and ports (`etcd_members`, `postgres_members`, ...).
    pub fn global_variables(&self) -> Map<String, Value> {
        self.global.clone()
    }

    /// Where a variable, or an entry of its map, is set; `None` where nobody sets it.
    pub fn place(&self, variable: &str, entry: Option<&str>) -> Option<Location> {
        let mut found = self.drafts.values().filter_map(|draft| draft.vars.get(variable));
        let origin = &found.next()?.origin;
        Some(match entry {
            Some(entry) => origin.key_within(entry).key_location(),
            None => origin.key_location(),
        })
    }

    /// The variables of `-e`, which win over those of plays and tasks too.
    pub fn extra_vars(&self) -> &Map<String, Value> {
        &self.extra
    }

    /// Every secret text of the inventory, so that output can be searched for them.
    pub fn secrets(&self) -> Vec<Secret> {
        settings::secrets(self)
    }
}
