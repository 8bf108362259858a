//! What is to be done: plays, tasks and handlers in Ansible's words.
//!
//! Owns the language and the built-in `playbooks/`. Reads strictly: a word, module, argument or handler
//! that doesn't exist is an error with its place and the nearest one that does. Never renders a template,
//! never looks at an inventory, and carries nothing out.

mod action;
mod load;
mod model;
mod pattern;
mod read;
mod sources;
mod task;

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    template::Templates,
    yaml::Document,
};
use indexmap::IndexMap;
use load::Loader;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use model::{Action, Debug, Include, Order, Play, Serial, Task};
pub use sources::{Sources, names, shipped};

/// A playbook with everything that it imports.
#[derive(Clone, Debug)]
pub struct Playbook {
    /// How complaints name the file.
    pub path: PathBuf,
    pub plays: Vec<Play>,
    texts: IndexMap<PathBuf, Arc<str>>,
    sources: Sources,
}

impl Playbook {
    /// Reads a playbook from a path, or a built-in one by name (with or without `.yml`). All mistakes of
    /// all its files are reported together.
    pub fn load(name: &str, sources: &Sources) -> Result<Playbook, Diagnostics> {
        Loader::new(sources)?.playbook(name)
    }

    /// The directory of the file on disk, where its `templates/` and `files/` are; none for a built-in one.
    pub fn directory(&self) -> Option<&Path> {
        if self.path.starts_with("pgfleet:playbooks") {
            return None;
        }
        Some(self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The files that were read, by the names that locations have. Hand them to [`Templates::remember`], so
    /// that complaints about templates in them can show the line.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &Arc<str>)> {
        self.texts.iter().map(|(path, text)| (path.as_path(), text))
    }

    /// The tasks of an include whose name had to be rendered first. Notifications in them must have their
    /// handler in `play`.
    pub fn include(&self, include: &Include, file: &str, play: &Play) -> Result<Vec<Task>, Diagnostics> {
        let mut loader = Loader::new(&self.sources)?;
        loader.stack = include.chain.clone();
        let found = self.sources.find(file, &include.from)?;
        let Some((source, text)) = found else {
            return Err(Diagnostic::error(format!("there is no file of tasks `{file}`"))
                .at(play.at.clone())
                .into());
        };
        if loader.stack.contains(&source) {
            return Err(Diagnostic::error(format!("`{file}` includes itself")).at(play.at.clone()).into());
        }
        let document: Option<Document> = loader.document(&source, text);
        loader.stack.push(source);
        let tasks = document.map(|document| loader.task_list(&document.root(), &Default::default(), false));
        for (name, complaint) in std::mem::take(&mut loader.play.notified) {
            if !name.contains("{{") && !play.handlers.iter().any(|handler| handler.answers_to(&name)) {
                loader.wrong.push(complaint);
            }
        }
        if loader.wrong.is_empty() { Ok(tasks.unwrap_or_default()) } else { Err(Diagnostics(loader.wrong)) }
    }

    /// Whether every template file that tasks name exists and compiles.
    pub fn check_templates(&self, templates: &Templates) -> Result<(), Diagnostics> {
        let mut wrong = Vec::new();
        for task in self.plays.iter().flat_map(|play| play.tasks.iter().chain(&play.handlers)) {
            self.check_task(task, templates, &mut wrong);
        }
        if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
    }

    fn check_task(&self, task: &Task, templates: &Templates, wrong: &mut Vec<Diagnostic>) {
        match &task.action {
            Action::IncludeTasks(include) => {
                include.tasks.iter().flatten().for_each(|task| self.check_task(task, templates, wrong));
            }
            Action::Module { name, args } if name == "template" || name == "systemd_unit" => {
                let source = args.get("src").and_then(serde_json::Value::as_str);
                if let Some(source) = source.filter(|source| !source.contains("{{"))
                    && let Err(mut complaint) = templates.check_file(source)
                {
                    if complaint.at.is_none() {
                        complaint = self.point_at(task, source, complaint);
                    }
                    wrong.push(complaint);
                }
            }
            _ => {}
        }
    }

    /// The complaint, placed where a task has `text`; at the task when that can't be found.
    fn point_at(&self, task: &Task, text: &str, complaint: Diagnostic) -> Diagnostic {
        let lines = self.texts.get(&task.at.file).into_iter().flat_map(|source| source.lines().enumerate());
        let found = lines.skip(task.at.line - 1).find_map(|(index, line)| {
            line.find(text).map(|offset| (index + 1, line[..offset].chars().count() + 1))
        });
        let at = match found {
            Some((line, column)) => Location::new(&task.at.file, line, column),
            None => task.at.clone(),
        };
        self.illustrate(complaint.at(at).length(text.chars().count()).label("no such template"))
    }

    /// The complaint with the text of the file that it is about.
    pub fn illustrate(&self, complaint: Diagnostic) -> Diagnostic {
        let text = complaint.at.as_ref().and_then(|at| self.texts.get(&at.file));
        match text {
            Some(text) if complaint.source.is_none() => complaint.source(text.clone()),
            _ => complaint,
        }
    }
}

#[cfg(test)]
mod tests;
