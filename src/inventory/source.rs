//! Where definitions of variables come from: the inventory file, group_vars/ and host_vars/ beside it, `-e`.

use super::{
    catalogue,
    variable::{Mismatch, is_templated},
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location, Severity, did_you_mean},
    secret::Keyring,
    yaml::{Document, Node, PathStep},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The place that something was written at.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub document: Arc<Document>,
    path: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Origin {
    pub(super) fn new(document: &Arc<Document>, node: &Node<'_>) -> Self {
        let step = |step: &PathStep<'_>| match step {
            PathStep::Key(key) => Step::Key((*key).to_owned()),
            PathStep::Index(index) => Step::Index(*index),
        };
        Self { document: document.clone(), path: node.path().iter().map(step).collect() }
    }

    /// A complaint about the value.
    pub(super) fn error(&self, message: impl Into<String>) -> Diagnostic {
        self.document.error_at(&self.steps(), message)
    }

    /// A complaint about the key.
    pub(super) fn key_error(&self, message: impl Into<String>) -> Diagnostic {
        self.document.error_at_key(&self.steps(), message)
    }

    pub(super) fn location(&self) -> Location {
        self.document.locate(&self.steps())
    }

    pub(super) fn key_location(&self) -> Location {
        self.document.locate_key(&self.steps())
    }

    /// The place of an entry of the map that is here.
    pub(super) fn key_within(&self, key: &str) -> Origin {
        self.within(Step::Key(key.to_owned()))
    }

    /// The place of an item of the list that is here.
    pub(super) fn item_within(&self, index: usize) -> Origin {
        self.within(Step::Index(index))
    }

    fn within(&self, step: Step) -> Origin {
        let path = self.path.iter().cloned().chain([step]).collect();
        Origin { document: self.document.clone(), path }
    }

    fn steps(&self) -> Vec<PathStep<'_>> {
        let step = |step| match step {
            &Step::Index(index) => PathStep::Index(index),
            Step::Key(key) => PathStep::Key(key),
        };
        self.path.iter().map(step).collect()
    }
}

/// A variable as somebody set it, once.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub name: String,
    /// In the shape that the variable's kind asks for, once it has been checked.
    pub value: Value,
    pub origin: Origin,
}

pub(super) type Definitions = Vec<Arc<Definition>>;

/// The definitions in a map of variables; complains where it is no map.
pub(super) fn definitions(document: &Arc<Document>, node: &Node<'_>, wrong: &mut Diagnostics) -> Definitions {
    if !node.is_map() && !node.is_null() {
        let message = match node.key() {
            Some(key) => format!("`{key}` must be a map of variables"),
            None => "the file must hold a map of variables".to_owned(),
        };
        wrong.push(node.error(message).label("expected `name: value` lines"));
    }
    node.entries().filter_map(|(name, node)| vet(document, name, &node, wrong)).map(Arc::new).collect()
}

/// Looks a variable up in the catalogue and reads its value as its kind asks for. One that holds a template
/// is read again when its value is known.
fn vet(document: &Arc<Document>, name: &str, node: &Node<'_>, wrong: &mut Diagnostics) -> Option<Definition> {
    let origin = Origin::new(document, node);
    let Some(variable) = catalogue::find(name) else {
        // Ansible's custom: `x: "{{ vault_x }}"` in a plain file, and `vault_x` in a sealed one.
        if name.strip_prefix("vault_").is_none_or(|name| catalogue::find(name).is_none()) {
            wrong.push(unknown(name, node));
        }
        return Some(Definition { name: name.to_owned(), value: node.value().clone(), origin });
    };
    let definition = |value| Definition { name: variable.name.to_owned(), value, origin: origin.clone() };
    if is_templated(node.value()) {
        return Some(definition(node.value().clone()));
    }
    match variable.kind.read(node.value()) {
        Ok(value) => Some(definition(value)),
        Err(mismatch) => {
            wrong.push(mismatched(name, mismatch, node.error(String::new())));
            None
        }
    }
}

/// The complaint about a value that is not of its variable's kind.
pub(super) fn mismatched(name: &str, mismatch: Mismatch, place: Diagnostic) -> Diagnostic {
    Diagnostic { message: format!("`{name}` has a value that it cannot take"), ..place }
        .label(mismatch.expected)
        .helps(mismatch.help)
}

/// A name that is close to a variable's is taken for a typing error; any other may belong to the user's own
/// playbooks and is only mentioned.
fn unknown(name: &str, node: &Node<'_>) -> Diagnostic {
    let known = || catalogue::VARIABLES.iter().map(|variable| variable.name);
    let diagnostic = node.key_error(format!("unknown variable `{name}`"));
    if let Some(meant) = did_you_mean(name, known()) {
        return diagnostic.label("pgfleet has no variable of this name").help(meant);
    }
    let own = "for a variable of your own playbooks, put it below `custom:` and write `{{ custom.";
    Diagnostic { severity: Severity::Warning, ..diagnostic }
        .label("nothing in pgfleet reads it")
        .help(format!("{own}{name} }}}}`"))
}

/// What group_vars/ or host_vars/ holds: the name of a group or host, and a file's definitions.
pub(super) struct VarsFile {
    pub name: String,
    pub path: PathBuf,
    pub definitions: Definitions,
}

/// Reads a folder of variables: `NAME.yml`, `NAME.yaml`, `NAME.json`, `NAME`, or `NAME/` with such files, in
/// the order of their names. A folder that does not exist holds nothing.
pub(super) fn vars_folder(folder: &Path, keys: &Keyring, wrong: &mut Diagnostics) -> Vec<VarsFile> {
    let mut found = Vec::new();
    for path in entries(folder) {
        let Some(name) = name_of(&path) else { continue };
        let files = if path.is_dir() { files_below(&path) } else { vec![path] };
        for path in files {
            match read(&path, keys) {
                Ok(document) => {
                    let document = Arc::new(document);
                    let definitions = definitions(&document, &document.root(), wrong);
                    found.push(VarsFile { name: name.clone(), path, definitions });
                }
                Err(diagnostic) => wrong.push(diagnostic),
            }
        }
    }
    found
}

/// Reads a file, with what Ansible Vault has sealed in it.
pub(super) fn read(path: &Path, keys: &Keyring) -> Result<Document, Diagnostic> {
    Document::read_sealed(path, &|sealed| keys.open(sealed, path).map(|opened| opened.text))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries(folder)
        .into_iter()
        .filter(|path| path.is_dir() || name_of(path).is_some())
        .flat_map(below)
        .collect()
}

/// The group or host that a file is for; none for files of other programs and hidden ones.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with('.') || name.ends_with('~') {
        return None;
    }
    if path.is_dir() {
        return Some(name.to_owned());
    }
    match name.rsplit_once('.') {
        Some((stem, "yml" | "yaml" | "json")) => Some(stem.to_owned()),
        Some((_, "md" | "txt" | "bak" | "orig" | "swp" | "retry" | "sample" | "example")) => None,
        _ => Some(name.to_owned()),
    }
}
