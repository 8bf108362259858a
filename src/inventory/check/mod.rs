//! What an inventory must not say although each of its values is well formed. A file per subject; each
//! check is a function that looks and complains.

mod dcs;
mod hosts;
mod postgres;
mod vip;

use super::{
    Host,
    catalogue::{GROUPS, OTHER_NAMES},
    merge::Draft,
    tree::Tree,
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Severity, did_you_mean, nearest},
    model::HostName,
};
use indexmap::IndexMap;
use serde_json::Value;

/// What is looked at: where things were written, and what they come to.
pub(super) struct Subject<'a> {
    pub tree: &'a Tree,
    pub drafts: &'a IndexMap<HostName, Draft>,
    pub hosts: &'a IndexMap<HostName, Host>,
    pub groups: &'a IndexMap<String, Vec<HostName>>,
}

impl<'a> Subject<'a> {
    fn group(&self, name: &str) -> impl Iterator<Item = &'a Host> + use<'a> {
        let hosts = self.hosts;
        self.groups.get(name).into_iter().flatten().filter_map(move |host| hosts.get(host))
    }

    fn size(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, Vec::len)
    }

    /// The value of a variable of the cluster.
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.hosts.values().next()?.vars.get(name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.as_u64()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.value(name)?.as_str()
    }

    /// A complaint at the place where a variable of the cluster was set; without a place for a default.
    fn about(&self, name: &str, message: String) -> Diagnostic {
        let definition = self.drafts.values().find_map(|draft| draft.vars.get(name));
        match definition {
            Some(definition) => definition.origin.error(message),
            None => Diagnostic::error(message),
        }
    }

    /// A complaint at the place where a host's variable was set, or at the host.
    fn about_host(&self, host: &Host, name: &str, message: String) -> Diagnostic {
        match self.drafts.get(&host.name).and_then(|draft| draft.vars.get(name)) {
            Some(definition) => definition.origin.error(message),
            None => self.at_host(host.name.as_str(), message),
        }
    }

    fn at_host(&self, host: &str, message: String) -> Diagnostic {
        match self.tree.hosts.get(host) {
            Some(entry) => entry.origin.key_error(message),
            None => Diagnostic::error(message),
        }
    }

    fn at_group(&self, group: &str, message: String) -> Diagnostic {
        match self.tree.groups.get(group).or_else(|| self.tree.groups.get("all")) {
            Some(group) => group.origin.key_error(message),
            None => Diagnostic::error(message),
        }
    }
}

fn warning(diagnostic: Diagnostic) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, ..diagnostic }
}

fn is_role(name: &str) -> bool {
    GROUPS.iter().any(|(role, _)| *role == name)
}

/// Groups that nothing is done with, and hosts in none that something is done with.
pub(super) fn groups(tree: &Tree, wrong: &mut Diagnostics) {
    let roles = || GROUPS.iter().map(|(name, _)| *name);
    let leads_to_role = |group: &str| tree.with_ancestors(group).iter().any(|ancestor| is_role(ancestor));
    let mut suspects = Vec::new();
    for (name, group) in tree.groups.iter().filter(|(name, _)| *name != "all" && !leads_to_role(name)) {
        let above_role =
            tree.groups.keys().any(|other| is_role(other) && tree.with_ancestors(other).contains(name));
        let elsewhere = |host: &String| {
            tree.groups.iter().any(|(other, group)| leads_to_role(other) && group.hosts.contains(host))
        };
        let other_name = OTHER_NAMES.iter().find(|(other, _)| *other == name.as_str()).map(|(_, role)| *role);
        if above_role
            || (!group.hosts.is_empty() && group.hosts.iter().all(elsewhere) && other_name.is_none())
        {
            continue;
        }
        suspects.push(name.as_str());
        let diagnostic = group.origin.key_error(format!("unknown group `{name}`"));
        let diagnostic = match (other_name, nearest(name, roles())) {
            (Some("postgres"), _) if matches!(name.as_str(), "master" | "primary" | "replica") => diagnostic
                .label("roles are discovered, never configured")
                .help("put every PostgreSQL host into the group `postgres`"),
            (Some(role), _) => diagnostic.label(format!("pgfleet's name for it is `{role}`")),
            (None, Some(_)) => diagnostic.label("no group has this name").helps(did_you_mean(name, roles())),
            (None, None) => diagnostic
                .label("nothing is done with its hosts")
                .help(format!("groups that have a meaning: {}", roles().collect::<Vec<_>>().join(", "))),
        };
        wrong.push(diagnostic);
    }
    for (name, entry) in &tree.hosts {
        let mut own =
            tree.groups.iter().filter(|(_, group)| group.hosts.contains(name)).map(|(group, _)| group);
        if own.all(|group| !leads_to_role(group) && !suspects.contains(&group.as_str())) {
            let roles = roles().map(|role| format!("`{role}`")).collect::<Vec<_>>().join(", ");
            wrong.push(
                entry
                    .origin
                    .key_error(format!("host `{name}` is in no group that says what runs on it"))
                    .label(format!("expected it in one of {roles}"))
                    .help("name it below `hosts:` of that group; its variables may stay here"),
            );
        }
    }
    if tree.hosts.is_empty() && suspects.is_empty() && !wrong.has_errors() {
        wrong.push(match tree.groups.get("all") {
            Some(all) => all
                .origin
                .key_error("the inventory has no hosts")
                .help("`pgfleet init` writes one to start from"),
            None => Diagnostic::error("the inventory has no hosts"),
        });
    }
}

/// Variables without which nothing can be said.
pub(super) fn required(tree: &Tree, drafts: &IndexMap<HostName, Draft>, wrong: &mut Diagnostics) {
    if drafts.values().any(|draft| draft.vars.contains_key("cluster_name")) || drafts.is_empty() {
        return;
    }
    let message = "the inventory gives the cluster no name";
    let diagnostic = match tree.groups.get("all") {
        Some(all) => all.origin.key_error(message),
        None => Diagnostic::error(message),
    };
    wrong.push(
        diagnostic
            .label("expected `cluster_name` below `vars:`")
            .help("add `vars: {cluster_name: demo}` below `all:`"),
    );
}

/// Everything else, once all values are known.
pub(super) fn meaning(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    hosts::check(subject, wrong);
    dcs::check(subject, wrong);
    postgres::check(subject, wrong);
    vip::check(subject, wrong);
}
