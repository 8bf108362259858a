//! The way from files to a checked inventory, step by step. Start reading at [`load`].

use super::{
    Connection, Generated, Host, Inventory,
    catalogue::{GROUPS, NEEDED_WITH, VARIABLES},
    certificates, check, extra, fill, merge,
    merge::Draft,
    settings,
    source::{self, Definition, Origin, VarsFile, vars_folder},
    tree::Tree,
    variable::{Default, Kind},
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Severity, nearest},
    model::HostName,
    secret::{Keyring, Store},
    template::Templates,
    yaml::Document,
};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{path::Path, sync::Arc};

/// What becomes of passwords that nobody set, and of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passwords {
    /// Generated and written to the secrets file.
    Keep,
    /// Generated for this call.
    Forget,
}

pub(super) fn load(
    path: &Path,
    extra_vars: &[String],
    leaving: &[HostName],
    passwords: Passwords,
    keys: &Keyring,
) -> Result<Inventory, Diagnostics> {
    let mut wrong = Diagnostics::default();
    if path.is_dir() {
        let diagnostic = Diagnostic::error(format!("`{}` is a folder", path.display()));
        return Err(diagnostic
            .help("give the inventory file itself; group_vars/ and host_vars/ beside it are read")
            .into());
    }
    let document = Arc::new(source::read(path, keys).map_err(|diagnostic| unreadable(path, diagnostic))?);
    let mut tree = Tree::read(&document, &mut wrong);
    let folder = path.parent().unwrap_or(Path::new("."));
    let group_files = vars_folder(&folder.join("group_vars"), keys, &mut wrong);
    let host_files = vars_folder(&folder.join("host_vars"), keys, &mut wrong);
    let extra = extra::read(extra_vars, keys, &mut wrong);
    mention_strangers(&tree, &group_files, &host_files, &mut wrong);
    tree.leave_out(leaving);
    check::groups(&tree, &mut wrong);
    stop_at_errors(&mut wrong)?;

    let mut drafts = merge::drafts(&tree, &group_files, &host_files, &extra);
    merge::mention_idle(&drafts, &mut wrong);
    merge::spread_over_cluster(&mut drafts, &mut wrong);
    let groups = group_members(&tree, &drafts);
    check::required(&tree, &drafts, &mut wrong);
    stop_at_errors(&mut wrong)?;

    let mut store = Store::beside(path, keys)?;
    let generated = add_passwords(&mut store, &mut drafts, &groups, &mut wrong)?;
    let mut global = Map::new();
    global.insert("groups".to_owned(), serde_json::json!(groups));
    let mut templates = Templates::new(Vec::new())?;
    templates.share(&global)?;
    let mut hosts = IndexMap::new();
    for draft in drafts.values() {
        let base = magic(draft.name.as_str(), &draft.groups);
        let filled = fill::fill(draft, &groups, &base, &Map::new(), &templates, &mut wrong);
        let mut vars = filled.vars;
        for definition in filled.waiting {
            vars.insert(definition.name.clone(), definition.value.clone());
        }
        match Connection::of(draft.name.as_str(), &vars) {
            Ok(connection) => {
                let name = draft.name.clone();
                hosts.insert(name.clone(), Host { name, connection, groups: draft.groups.clone(), vars });
            }
            Err(name) => {
                if let Some(definition) = draft.vars.get(&name) {
                    wrong.push(definition.origin.error(format!("`{name}` has a quote that is not closed")));
                }
            }
        }
    }
    stop_at_errors(&mut wrong)?;
    check::meaning(
        &check::Subject { tree: &tree, drafts: &drafts, hosts: &hosts, groups: &groups },
        &mut wrong,
    );
    sort(&mut wrong);
    let mut warnings = wrong.into_warnings()?;

    let cluster = settings::cluster(&hosts)?;
    global.extend(settings::global(&hosts, &groups));
    let authority = certificates::give(&mut store, &cluster, &mut hosts)?;
    if passwords == Passwords::Keep && !store.unsaved().is_empty() {
        store.save()?;
        if !store.is_sealed() {
            let message = format!("new secrets are in `{}`, which is not sealed", store.path().display());
            warnings
                .push(Diagnostic::warning(message).help("`pgfleet secrets init` seals it with a passphrase"));
        }
    }
    let extra = extra.iter().map(|definition| (definition.name.clone(), definition.value.clone())).collect();
    let former = store.previous().values().cloned().collect();
    let path = path.to_owned();
    Ok(Inventory {
        path,
        cluster,
        hosts,
        groups,
        warnings,
        generated,
        authority,
        extra,
        global,
        drafts,
        former,
    })
}

/// What every host is given besides its variables.
pub(super) fn magic(name: &str, groups: &[String]) -> Map<String, Value> {
    let short = name.split('.').next().unwrap_or(name);
    let mut sorted = groups.to_vec();
    sorted.sort();
    Map::from_iter([
        ("inventory_hostname".to_owned(), name.into()),
        ("inventory_hostname_short".to_owned(), short.into()),
        ("group_names".to_owned(), sorted.into()),
    ])
}

/// What to do about an inventory that is no YAML.
fn unreadable(path: &Path, diagnostic: Diagnostic) -> Diagnostic {
    match diagnostic.at {
        // Its reason is in the file.
        None if !diagnostic.help.is_empty() => diagnostic,
        None => diagnostic.help("name the inventory with `-i FILE`, or write one with `pgfleet init`"),
        Some(_) if is_ini(&std::fs::read_to_string(path).unwrap_or_default()) => Diagnostic {
            message: "this inventory is in Ansible's INI form".to_owned(),
            help: vec!["`ansible-inventory -i FILE --list --yaml` converts it".to_owned()],
            ..diagnostic.label("expected YAML: `all:` with groups below it")
        },
        Some(_) => diagnostic,
    }
}

fn is_ini(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    first.is_some_and(|line| line.starts_with('[') && line.ends_with(']') && !line.contains(','))
}

/// Errors in the order of their places, each once; warnings stay for later.
fn stop_at_errors(wrong: &mut Diagnostics) -> Result<(), Diagnostics> {
    if !wrong.has_errors() {
        return Ok(());
    }
    sort(wrong);
    Err(std::mem::take(wrong))
}

fn sort(wrong: &mut Diagnostics) {
    wrong.0.sort_by_key(|diagnostic| diagnostic.at.as_ref().map(|at| (at.file.clone(), at.line, at.column)));
    wrong.0.dedup();
}

/// Files in group_vars/ and host_vars/ whose name is nearly that of a group or host.
fn mention_strangers(
    tree: &Tree,
    group_files: &[VarsFile],
    host_files: &[VarsFile],
    wrong: &mut Diagnostics,
) {
    let groups = || tree.groups.keys().map(String::as_str);
    let hosts = || tree.hosts.keys().map(String::as_str);
    let roles = GROUPS.map(|(name, _)| name);
    for file in group_files {
        if !tree.groups.contains_key(&file.name) && !roles.contains(&file.name.as_str()) {
            wrong.extend(stranger(file, "group", nearest(&file.name, groups())));
        }
    }
    for file in host_files {
        if !tree.hosts.contains_key(&file.name) {
            wrong.extend(stranger(file, "host", nearest(&file.name, hosts())));
        }
    }
}

fn stranger(file: &VarsFile, kind: &str, meant: Option<&str>) -> Option<Diagnostic> {
    let warning =
        Diagnostic::error(format!("`{}` belongs to no {kind} of the inventory", file.path.display()));
    Some(Diagnostic { severity: Severity::Warning, ..warning }.help(format!("did you mean `{}`?", meant?)))
}

/// Every group with its hosts; the groups of the catalogue are there even when they have none.
fn group_members(tree: &Tree, drafts: &IndexMap<HostName, Draft>) -> IndexMap<String, Vec<HostName>> {
    let names = tree.groups.keys().map(String::as_str).chain(GROUPS.map(|(name, _)| name));
    let mut groups = IndexMap::new();
    for name in std::iter::once("all").chain(names) {
        let hosts = drafts.values().filter(|draft| name == "all" || draft.is_in(name));
        groups.insert(name.to_owned(), hosts.map(|draft| draft.name.clone()).collect());
    }
    groups
}

/// Gives passwords that are needed and that nobody set their kept or new values. All that are needed are told.
fn add_passwords(
    store: &mut Store<'_>,
    drafts: &mut IndexMap<HostName, Draft>,
    groups: &IndexMap<String, Vec<HostName>>,
    wrong: &mut Diagnostics,
) -> Result<Vec<Generated>, Diagnostics> {
    let used = |group: &&str| groups.get(*group).is_some_and(|hosts| !hosts.is_empty());
    let (mut values, mut generated) = (Map::new(), Vec::new());
    for variable in VARIABLES {
        let Default::Generated = variable.default else { continue };
        let idle = NEEDED_WITH.iter().any(|(name, other)| {
            *name == variable.name && !drafts.values().any(|draft| draft.vars.contains_key(*other))
        });
        if idle || !variable.groups.iter().any(used) {
            continue;
        }
        let most = if let Kind::Secret { most } = variable.kind { most } else { usize::MAX };
        let set = drafts.values().find_map(|draft| draft.vars.get(variable.name));
        let set = set.map(|definition| definition.origin.clone());
        let own = set.is_some();
        generated.push(Generated { name: variable.name, most, set });
        if own {
            continue;
        }
        let secret = store.get_or_generate(variable.name, most);
        values.insert(variable.name.to_owned(), Value::String(secret.expose().to_owned()));
    }
    if !store.previous().is_empty() {
        let names: Vec<String> = store.previous().keys().map(|name| format!("`{name}`")).collect();
        let message = format!("a rotation of {} has not ended", names.join(", "));
        wrong.push(Diagnostic::warning(message).help("`pgfleet secrets rotate` completes it"));
    }
    let document = Arc::new(Document::parse(store.path(), crate::yaml::to_string(&values))?);
    for (name, node) in document.root().entries() {
        let origin = Origin::new(&document, &node);
        let definition = Arc::new(Definition { name: name.to_owned(), value: node.value().clone(), origin });
        for draft in drafts.values_mut() {
            draft.vars.insert(name.to_owned(), definition.clone());
        }
    }
    Ok(generated)
}
