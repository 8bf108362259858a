//! Which definition of a variable holds for which host: Ansible's precedence.

use super::{
    catalogue::{self, VARIABLES},
    source::{Definition, Definitions, VarsFile},
    tree::Tree,
    variable::{Reach, is_templated},
};
use crate::{diagnostic::Diagnostics, model::HostName};
use indexmap::{IndexMap, IndexSet};
use std::{collections::HashSet, sync::Arc};

/// A host with the definitions that hold for it.
#[derive(Debug)]
pub(super) struct Draft {
    pub name: HostName,
    /// Its groups and their ancestors without `all`, general ones first.
    pub groups: Vec<String>,
    pub vars: IndexMap<String, Arc<Definition>>,
}

impl Draft {
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether a variable of it holds a template.
    pub(super) fn is_templated(&self) -> bool {
        self.vars.values().any(|definition| is_templated(&definition.value))
    }
}

/// Merges, weakest first: `vars` of `all` and of its groups in the inventory file, group_vars/ in the same
/// order, the host in the inventory file, host_vars/, `-e`. Among groups a child wins over its parent, and
/// the alphabet decides between equals.
pub(super) fn drafts(
    tree: &Tree,
    group_files: &[VarsFile],
    host_files: &[VarsFile],
    extra: &Definitions,
) -> IndexMap<HostName, Draft> {
    let mut groups: Vec<&String> = tree.groups.keys().collect();
    groups.sort_by_key(|name| (tree.depth(name), name.as_str()));
    let mut members: IndexMap<&str, IndexSet<&str>> = IndexMap::new();
    for (name, group) in &tree.groups {
        for ancestor in tree.with_ancestors(name) {
            let (ancestor, _) = tree.groups.get_key_value(&ancestor).unwrap_or((name, group));
            members.entry(ancestor).or_default().extend(group.hosts.iter().map(String::as_str));
        }
    }
    let draft = |(name, entry): (&String, &super::tree::HostEntry)| {
        let own: Vec<&String> = groups
            .iter()
            .copied()
            .filter(|group| {
                *group == "all"
                    || members.get(group.as_str()).is_some_and(|hosts| hosts.contains(name.as_str()))
            })
            .collect();
        let in_file = own.iter().flat_map(|group| &tree.groups[group.as_str()].vars);
        let beside = own.iter().flat_map(|group| group_files.iter().filter(|file| &file.name == *group));
        let for_host = host_files.iter().filter(|file| &file.name == name);
        let mut vars = IndexMap::new();
        for definition in in_file
            .chain(beside.flat_map(|file| &file.definitions))
            .chain(&entry.vars)
            .chain(for_host.flat_map(|file| &file.definitions))
            .chain(extra)
        {
            vars.insert(definition.name.clone(), definition.clone());
        }
        let groups = own.into_iter().filter(|group| *group != "all").cloned().collect();
        (entry.name.clone(), Draft { name: entry.name.clone(), groups, vars })
    };
    tree.hosts.iter().map(draft).collect()
}

/// Gives every host the cluster's variables, wherever they are set; complains about two values of one. The
/// hosts that a variable matters to speak for it before others do.
pub(super) fn spread_over_cluster(drafts: &mut IndexMap<HostName, Draft>, wrong: &mut Diagnostics) {
    for variable in VARIABLES.iter().filter(|variable| variable.reach == Reach::Cluster) {
        let concerned = |draft: &&Draft| variable.groups.iter().any(|group| draft.is_in(group));
        let of =
            |draft: &Draft| draft.vars.get(variable.name).map(|found| (draft.name.clone(), found.clone()));
        let mut found: Vec<(HostName, Arc<Definition>)> =
            drafts.values().filter(concerned).filter_map(of).collect();
        if found.is_empty() {
            found = drafts.values().filter_map(of).collect();
        }
        let Some((host, first)) = found.first().cloned() else { continue };
        if let Some((other_host, other)) = found.iter().find(|(_, other)| other.value != first.value) {
            let at = first.origin.key_location();
            wrong.push(
                other
                    .origin
                    .key_error(format!("`{}` has two values in one cluster", variable.name))
                    .label(format!("this is for host `{other_host}`; {at} is for host `{host}`"))
                    .help("all hosts share it; set it once, below `vars:` of `all:`"),
            );
            continue;
        }
        for draft in drafts.values_mut() {
            draft.vars.insert(first.name.clone(), first.clone());
        }
    }
}

/// Warns of definitions that reach none of the hosts that they matter to.
pub(super) fn mention_idle(drafts: &IndexMap<HostName, Draft>, wrong: &mut Diagnostics) {
    let mut useful = HashSet::new();
    let mut idle = IndexMap::new();
    for draft in drafts.values() {
        for definition in draft.vars.values() {
            let Some(variable) = catalogue::find(&definition.name) else { continue };
            let matters = variable.reach == Reach::Cluster
                || variable.groups.is_empty()
                || variable.groups.iter().any(|group| draft.is_in(group));
            if matters {
                useful.insert(Arc::as_ptr(definition));
            } else {
                idle.insert(Arc::as_ptr(definition), (definition.clone(), variable));
            }
        }
    }
    for (definition, variable) in
        idle.into_iter().filter(|(pointer, _)| !useful.contains(pointer)).map(|(_, value)| value)
    {
        let groups = variable.groups.join("` or `");
        let mut warning = definition
            .origin
            .key_error(format!("`{}` has no effect here", definition.name))
            .label(format!("it matters to hosts in group `{groups}`"));
        warning.severity = crate::diagnostic::Severity::Warning;
        wrong.push(warning);
    }
}
