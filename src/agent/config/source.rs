//! Where settings come from: files in their order, then `PATRONI_*` variables; and where each of them stands.

use super::{environment, schema};
use crate::{
    contract::merge_patch,
    diagnostic::{Diagnostic, Diagnostics},
    yaml::{Document, PathStep},
};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// All settings of one agent, merged, before they are understood.
pub struct Sources {
    documents: Vec<Document>,
    /// Settings from the environment by path, with the variable's name.
    variables: Vec<(String, String)>,
    merged: Map<String, Value>,
}

impl Sources {
    /// Reads a file, or all `*.yml` and `*.yaml` of a directory in the order of their names, where later
    /// ones win. Then come the variables.
    pub fn read(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        findings: &mut Diagnostics,
    ) -> Self {
        let mut sources = Self { documents: Vec::new(), variables: Vec::new(), merged: Map::new() };
        match files(path) {
            Ok(files) => {
                for file in files {
                    match Document::read(&file) {
                        Ok(document) => sources.documents.push(document),
                        Err(diagnostic) => findings.push(diagnostic),
                    }
                }
            }
            Err(diagnostic) => findings.push(*diagnostic),
        }
        for document in &sources.documents {
            schema::check(document.root(), findings);
            if let Some(map) = document.value().as_object() {
                merge_patch(&mut sources.merged, map);
            }
        }
        for setting in environment::settings(environment, findings) {
            insert(&mut sources.merged, &setting.path, setting.value);
            sources.variables.push((setting.path, setting.variable));
        }
        sources
    }

    /// The value at `section.key`; `null` is as good as nothing.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut words = path.split('.');
        let first = self.merged.get(words.next()?)?;
        words.try_fold(first, |value, word| value.get(word)).filter(|value| !value.is_null())
    }

    /// A complaint about the value at `section.key`, at the place that it came from.
    pub fn error(&self, path: &str, message: impl Into<String>) -> Diagnostic {
        let message = message.into();
        if let Some((_, variable)) = self.variables.iter().find(|(known, _)| known == path) {
            return Diagnostic::error(message).help(format!("it comes from the variable `{variable}`"));
        }
        let steps: Vec<PathStep<'_>> = path.split('.').map(PathStep::Key).collect();
        let holds = |document: &&Document| {
            let mut words = path.split('.');
            words.try_fold(document.value(), |value, word| value.get(word)).is_some()
        };
        match self.documents.iter().rev().find(holds) {
            Some(document) => document.error_at(&steps, message),
            None => self.missing(message),
        }
    }

    /// A complaint about something that is nowhere.
    pub fn missing(&self, message: impl Into<String>) -> Diagnostic {
        match self.documents.last() {
            Some(document) => document.error_at(&[], message),
            None => Diagnostic::error(message.into()),
        }
    }

    /// Whether anything was read at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.variables.is_empty()
    }

    pub fn merged(&self) -> &Map<String, Value> {
        &self.merged
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Box<Diagnostic>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error: std::io::Error| {
        Box::new(Diagnostic::error(format!("cannot list `{}`: {error}", path.display())))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let yaml = file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Box::new(Diagnostic::error(format!("no `*.yml` or `*.yaml` in `{}`", path.display()))));
    }
    Ok(files)
}

fn insert(map: &mut Map<String, Value>, path: &str, value: Value) {
    let patch = path.rsplit('.').fold(value, |value, word| {
        let mut level = Map::new();
        level.insert(word.to_owned(), value);
        Value::Object(level)
    });
    if let Value::Object(patch) = patch {
        merge_patch(map, &patch);
    }
}
