//! Template files: the embedded ones, the directories that override them, and what was compiled already.

use super::{
    dialect::{Translation, translate},
    place::{Origin, explain},
    undefined_in_condition,
};
use crate::{
    builtin,
    diagnostic::{Diagnostic, Location, did_you_mean},
};
use include_dir::{Dir, include_dir};
use indexmap::IndexMap;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tera::{Context, Tera};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

/// The names and texts of the templates that are built in.
pub fn shipped() -> Vec<builtin::File> {
    builtin::files(&EMBEDDED)
}

/// How complaints name a built-in template.
fn built_in(name: &str) -> PathBuf {
    PathBuf::from(format!("pgfleet:templates/{name}"))
}

pub(super) struct Files {
    search: Vec<PathBuf>,
    compiled: Mutex<HashMap<String, Arc<Compiled>>>,
    remembered: HashMap<PathBuf, Arc<str>>,
}

impl Files {
    pub fn new(search: Vec<PathBuf>) -> Self {
        Self { search, compiled: Mutex::default(), remembered: HashMap::new() }
    }

    pub fn remember(&mut self, file: &Path, text: Arc<str>) {
        self.remembered.insert(file.to_owned(), text);
    }

    /// The text of a file that a complaint is about.
    pub fn source(&self, file: &Path) -> Option<Arc<str>> {
        self.remembered.get(file).cloned().or_else(|| std::fs::read_to_string(file).ok().map(Arc::from))
    }

    /// The path and text of a template.
    pub fn find(&self, name: &str) -> Option<(PathBuf, Arc<str>)> {
        let on_disk = self.search.iter().map(|folder| folder.join(name));
        for path in on_disk {
            if let Ok(text) = std::fs::read_to_string(&path) {
                return Some((path, text.into()));
            }
        }
        let text = EMBEDDED.get_file(name)?.contents_utf8()?;
        Some((built_in(name), text.into()))
    }

    /// The template and all that it includes, compiled.
    pub fn compiled(&self, base: &Tera, name: &str) -> Result<Arc<Compiled>, Diagnostic> {
        if let Some(known) = self.lock().get(name) {
            return Ok(known.clone());
        }
        let compiled = Arc::new(self.compile(base, name)?);
        self.lock().insert(name.to_owned(), compiled.clone());
        Ok(compiled)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Compiled>>> {
        // A panic elsewhere leaves the map whole: entries are only ever added.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile(&self, base: &Tera, name: &str) -> Result<Compiled, Diagnostic> {
        let mut parts: IndexMap<String, Part> = IndexMap::new();
        let mut wanted = vec![name.to_owned()];
        while let Some(next) = wanted.pop() {
            if parts.contains_key(&next) {
                continue;
            }
            let Some((path, text)) = self.find(&next) else {
                // One that is missing from an include is complained about where it is included.
                if next == name {
                    return Err(self.missing(name));
                }
                continue;
            };
            let translation = translate(&text);
            wanted.extend(translation.includes.iter().map(|(included, _)| included.clone()));
            parts.insert(next, Part { path, text, translation });
        }
        let mut tera = base.clone();
        let texts = parts.iter().map(|(name, part)| (name.as_str(), part.translation.text.as_str()));
        match tera.add_raw_templates(texts) {
            Ok(()) => Ok(Compiled { tera, name: name.to_owned(), parts }),
            Err(error) => Err(complaint(&parts, name, &error, &[])),
        }
    }

    fn missing(&self, name: &str) -> Diagnostic {
        let mut looked: Vec<String> = self.search.iter().map(|folder| folder.display().to_string()).collect();
        looked.push("the built-in templates".to_owned());
        Diagnostic::error(format!("there is no template `{name}`"))
            .helps(did_you_mean(name, shipped().iter().map(|(name, _)| *name)))
            .help(format!("looked in {}", looked.join(", ")))
    }
}

struct Part {
    path: PathBuf,
    text: Arc<str>,
    translation: Translation,
}

/// A template file that can be rendered.
pub(super) struct Compiled {
    tera: Tera,
    name: String,
    parts: IndexMap<String, Part>,
}

impl Compiled {
    /// The variables that the template and what it includes use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.values().flat_map(|part| part.translation.uses.iter().map(|used| used.name.as_str()))
    }

    pub fn render(&self, context: &Context, known: &[&str]) -> Result<String, Diagnostic> {
        self.tera
            .render(&self.name, context)
            .map_err(|error| complaint(&self.parts, &self.name, &error, known))
    }

    pub fn refuse_undefined_conditions(&self, known: &[&str]) -> Result<(), Diagnostic> {
        // An included template sees what its includer has set.
        let Some(part) = self.parts.get(&self.name).filter(|_| self.parts.len() == 1) else { return Ok(()) };
        match undefined_in_condition(&part.translation, known) {
            Some(found) => Err(part.complain(found)),
            None => Ok(()),
        }
    }
}

impl Part {
    fn complain(&self, complaint: super::Complaint) -> Diagnostic {
        let at = Location::new(&self.path, 1, 1);
        let origin = Origin { text: &self.text, at: &at, file: Some(self.text.clone()) };
        super::dress(&origin, complaint)
    }
}

fn complaint(parts: &IndexMap<String, Part>, name: &str, error: &tera::Error, known: &[&str]) -> Diagnostic {
    let text_of = |name: &str| parts.get(name).map_or("", |part| &part.text);
    let found = explain(error, text_of, |name| parts.get(name).map(|part| &part.translation), known);
    match parts.get(&found.template).or_else(|| parts.get(name)) {
        Some(part) => part.complain(found),
        None => Diagnostic::error(found.message),
    }
}
