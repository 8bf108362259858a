//! The inventory file as a tree of groups, with the place of everything in it.
//!
//! Checks the shape alone: `hosts`, `vars` and `children`, names, ranges, circles. What variables mean is
//! checked later.

use super::{
    catalogue::{self, GROUPS, OTHER_NAMES},
    range,
    source::{Definition, Definitions, Origin, definitions},
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, did_you_mean, nearest},
    model::HostName,
    yaml::{Document, Node, kind},
};
use indexmap::{IndexMap, IndexSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Tree {
    pub groups: IndexMap<String, Group>,
    pub hosts: IndexMap<String, HostEntry>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub origin: Origin,
    pub parents: IndexSet<String>,
    /// Hosts that the group names itself.
    pub hosts: IndexSet<String>,
    pub vars: Definitions,
}

#[derive(Debug)]
pub(super) struct HostEntry {
    pub name: HostName,
    /// Where it was written first.
    pub origin: Origin,
    pub vars: Definitions,
}

const PARTS: [&str; 3] = ["hosts", "vars", "children"];

impl Tree {
    /// Reads the tree; complains about every part that is wrong and leaves it out.
    pub(super) fn read(document: &Arc<Document>, wrong: &mut Diagnostics) -> Tree {
        let mut tree = Tree::default();
        let root = document.root();
        if !root.is_map() {
            wrong.push(no_tree(document, &root));
            return tree;
        }
        let all = root.get("all");
        let all = all.as_ref().unwrap_or(&root);
        tree.groups.insert("all".to_owned(), group_at(Origin::new(document, all)));
        for (name, node) in root.entries() {
            let parent = (name != "all").then_some("all");
            if let Some(help) = misplaced_at_top(name) {
                wrong.push(node.key_error(format!("`{name}` is not a group")).label(help));
                continue;
            }
            tree.group(document, name, &node, parent, wrong);
        }
        tree.refuse_circles(wrong);
        for name in tree.hosts.keys().filter(|name| tree.groups.contains_key(*name)) {
            let entry = &tree.hosts[name];
            wrong.push(
                entry
                    .origin
                    .key_error(format!("`{name}` is the name of a host and of a group"))
                    .label("patterns could not tell the two apart")
                    .help("rename one of them"),
            );
        }
        tree
    }

    /// Takes hosts out of it, as if they had not been written.
    pub(super) fn leave_out(&mut self, hosts: &[HostName]) {
        for name in hosts {
            self.hosts.shift_remove(name.as_str());
            for group in self.groups.values_mut() {
                group.hosts.shift_remove(name.as_str());
            }
        }
    }

    /// Ancestors of a group with `all`, and itself.
    pub(super) fn with_ancestors(&self, group: &str) -> IndexSet<String> {
        let mut found = IndexSet::new();
        let mut open = vec![group.to_owned()];
        while let Some(name) = open.pop() {
            if let Some(group) = self.groups.get(&name)
                && found.insert(name)
            {
                open.extend(group.parents.iter().cloned());
            }
        }
        found
    }

    /// How far a group is below `all`, by its longest way.
    pub(super) fn depth(&self, group: &str) -> usize {
        let parents = self.groups.get(group).map(|group| &group.parents);
        parents.into_iter().flatten().map(|parent| self.depth(parent) + 1).max().unwrap_or(0)
    }

    fn group(
        &mut self,
        document: &Arc<Document>,
        name: &str,
        node: &Node<'_>,
        parent: Option<&str>,
        wrong: &mut Diagnostics,
    ) {
        if !valid_group_name(name) {
            let expected = "expected letters, digits, `_`, `-` and `.`, the first a letter";
            wrong.push(node.key_error(format!("`{name}` is not a name for a group")).label(expected));
            return;
        }
        let origin = Origin::new(document, node);
        let group = self.groups.entry(name.to_owned()).or_insert_with(|| group_at(origin));
        group.parents.extend(parent.map(str::to_owned));
        if !node.is_map() && !node.is_null() {
            let message = format!("group `{name}` must be a map, not {}", kind(node.value()));
            wrong.push(node.error(message).label("expected `hosts:`, `vars:` or `children:` below it"));
            return;
        }
        for (part, node) in node.entries() {
            match part {
                "hosts" => self.hosts_of(document, name, &node, wrong),
                "vars" => {
                    let vars = definitions(document, &node, wrong);
                    self.groups[name].vars.extend(vars);
                }
                "children" => self.children_of(document, name, &node, wrong),
                other => wrong.push(unknown_part(name, other, &node)),
            }
        }
    }

    fn children_of(
        &mut self,
        document: &Arc<Document>,
        name: &str,
        node: &Node<'_>,
        wrong: &mut Diagnostics,
    ) {
        if !node.is_map() && !node.is_null() {
            let message = format!("`children` of group `{name}` must be a map, not {}", kind(node.value()));
            wrong.push(node.error(message).label("expected one `GROUP:` per line"));
        }
        for (child, node) in node.entries() {
            self.group(document, child, &node, Some(name), wrong);
        }
    }

    fn hosts_of(&mut self, document: &Arc<Document>, group: &str, node: &Node<'_>, wrong: &mut Diagnostics) {
        if !node.is_map() && !node.is_null() {
            let message = format!("`hosts` of group `{group}` must be a map, not {}", kind(node.value()));
            let diagnostic = node.error(message).label("expected one `NAME:` per line");
            let first = node.items().find_map(|item| item.as_str().map(str::to_owned));
            wrong.push(
                diagnostic.helps(first.map(|first| format!("write `{first}:` instead of `- {first}`"))),
            );
        }
        for (pattern, node) in node.entries() {
            let names = match range::expand(pattern) {
                Ok(names) => names,
                Err(reason) => {
                    wrong.push(
                        node.key_error(format!("`{pattern}` is not a host or a range of hosts"))
                            .label(reason),
                    );
                    continue;
                }
            };
            if !node.is_map() && !node.is_null() {
                let message =
                    format!("host `{pattern}` must be a map of variables, not {}", kind(node.value()));
                let diagnostic = node.error(message).label("expected `name: value` lines");
                let address = node
                    .as_str()
                    .map(|text| format!("for its address write `{pattern}: {{ansible_host: {text}}}`"));
                wrong.push(diagnostic.helps(address));
                continue;
            }
            let vars = definitions(document, &node, wrong);
            for name in names {
                self.host(document, group, name, &node, &vars, wrong);
            }
        }
    }

    fn host(
        &mut self,
        document: &Arc<Document>,
        group: &str,
        name: String,
        node: &Node<'_>,
        vars: &[Arc<Definition>],
        wrong: &mut Diagnostics,
    ) {
        let host_name = match name.parse::<HostName>() {
            Ok(host_name) => host_name,
            Err(error) => {
                let expected =
                    "expected 1 to 63 letters, digits, `-`, `_` or `.`, the first a letter or digit";
                let help = name.contains(':').then(|| "the port goes to `ansible_port`".to_owned());
                let error = error.to_string();
                let message = error.split(": ").next().unwrap_or(&error).to_owned();
                wrong.push(node.key_error(message).label(expected).helps(help));
                return;
            }
        };
        let origin = Origin::new(document, node);
        let entry = self.hosts.entry(name.clone()).or_insert_with(|| HostEntry {
            name: host_name,
            origin,
            vars: Vec::new(),
        });
        for var in vars {
            match entry.vars.iter().find(|earlier| earlier.name == var.name) {
                Some(earlier) if earlier.value != var.value => {
                    let at = earlier.origin.location();
                    wrong.push(
                        var.origin.key_error(format!("host `{name}` has two values of `{}`", var.name))
                            .label(format!("line {} says otherwise", at.line))
                            .help("write a host's variables once; in its other groups name it with nothing behind the colon"),
                    );
                }
                Some(_) => {}
                None => entry.vars.push(var.clone()),
            }
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.hosts.insert(name);
        }
    }

    /// Groups that contain themselves are reported and cut, so that what follows terminates.
    fn refuse_circles(&mut self, wrong: &mut Diagnostics) {
        for name in self.groups.keys().cloned().collect::<Vec<_>>() {
            let parents = self.groups[&name].parents.clone();
            let circle = parents.iter().find(|parent| self.with_ancestors(parent).contains(&name));
            if let Some(parent) = circle {
                let message = if parent == &name {
                    format!("group `{name}` is its own child")
                } else {
                    format!("groups `{name}` and `{parent}` contain each other")
                };
                wrong.push(self.groups[&name].origin.key_error(message).label("groups must form no circle"));
                self.groups[&name].parents.shift_remove(parent);
            }
        }
    }
}

fn group_at(origin: Origin) -> Group {
    Group { origin, parents: IndexSet::new(), hosts: IndexSet::new(), vars: Vec::new() }
}

fn valid_group_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

fn no_tree(document: &Document, root: &Node<'_>) -> Diagnostic {
    const EXAMPLE: &str = "`pgfleet init` writes an inventory to start from";
    if root.is_null() {
        return Diagnostic::error(format!("`{}` holds no inventory", document.file().display()))
            .label("the file is empty")
            .help(EXAMPLE);
    }
    let diagnostic = root.error("this is not an inventory").label("expected `all:` with groups below it");
    diagnostic.help(EXAMPLE)
}

/// What is wrong with a top-level key that is no group.
fn misplaced_at_top(name: &str) -> Option<String> {
    match name {
        "hosts" | "children" | "vars" => Some(format!("`{name}:` goes below `all:` or below a group")),
        "plays" | "tasks" | "handlers" | "roles" => Some("this is a word of playbooks".to_owned()),
        _ if catalogue::find(name).is_some() => Some("variables go below `vars:` of `all:`".to_owned()),
        _ => None,
    }
}

fn unknown_part(group: &str, part: &str, node: &Node<'_>) -> Diagnostic {
    let diagnostic = node.key_error(format!("unknown key `{part}` in group `{group}`"));
    let is_group =
        GROUPS.iter().any(|(name, _)| *name == part) || OTHER_NAMES.iter().any(|(name, _)| *name == part);
    if is_group {
        return diagnostic.label("groups within a group go below `children:`");
    }
    if catalogue::find(part).is_some() {
        return diagnostic.label("variables go below `vars:`");
    }
    let diagnostic = diagnostic.label("expected `hosts`, `vars` or `children`");
    if nearest(part, PARTS).is_some() {
        return diagnostic.helps(did_you_mean(part, PARTS));
    }
    let names = GROUPS.iter().map(|(name, _)| *name);
    diagnostic
        .helps(nearest(part, names).map(|name| format!("for the group `{name}`, write it below `children:`")))
}
