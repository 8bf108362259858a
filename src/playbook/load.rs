//! Reads playbooks and what they import into plays.

use super::{
    Playbook,
    model::{Action, Order, Play, Serial, Task},
    pattern,
    read::{Reader, known_keys, unexpected},
    sources::{Source, Sources},
    task::Inherited,
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location, did_you_mean},
    template::Templates,
    yaml::{Document, Node},
};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{path::PathBuf, sync::Arc};

const PLAY: &[&str] = &[
    "name",
    "hosts",
    "tasks",
    "handlers",
    "pre_tasks",
    "post_tasks",
    "become",
    "become_user",
    "become_method",
    "vars",
    "tags",
    "serial",
    "order",
    "any_errors_fatal",
    "gather_facts",
    "strategy",
];

const PLAY_REASONS: &[(&str, &str)] = &[
    ("roles", "put the role's tasks into a file and name it with `import_tasks`"),
    ("vars_files", "put variables into the inventory's `group_vars/` or hand them in with `-e @FILE`"),
    ("vars_prompt", "hand variables in with `-e name=value`"),
    (
        "ignore_errors",
        "there is no way to go on after an error: make the step right, or leave it out with `when`",
    ),
    ("max_fail_percentage", "the first failure on a host stops the run"),
    ("remote_user", "set `ansible_user` in the inventory"),
    ("connection", "every host is reached over SSH"),
    ("environment", "set it on the command's task"),
    ("module_defaults", "write the arguments at each task"),
    ("collections", "modules are built in"),
];

const IMPORT: &[&str] = &["import_playbook", "name", "when", "vars", "tags"];

/// What the play that is being read has, for the complaints of its tasks.
#[derive(Default)]
pub(super) struct PlayState {
    /// Notifications and where they are made.
    pub notified: Vec<(String, Diagnostic)>,
}

pub(super) struct Loader<'s> {
    pub sources: &'s Sources,
    pub templates: Templates,
    pub wrong: Vec<Diagnostic>,
    /// Every file that was read.
    pub texts: IndexMap<PathBuf, Arc<str>>,
    /// The files that are being read, the outermost first.
    pub stack: Vec<Source>,
    pub play: PlayState,
}

/// What an `import_playbook` hands on to the plays that it imports.
#[derive(Clone, Default)]
struct Imported {
    when: Vec<String>,
    vars: Map<String, Value>,
    tags: Vec<String>,
}

impl<'s> Loader<'s> {
    pub fn new(sources: &'s Sources) -> Result<Self, Diagnostics> {
        Ok(Self {
            sources,
            templates: Templates::new(Vec::new())?,
            wrong: Vec::new(),
            texts: IndexMap::new(),
            stack: Vec::new(),
            play: PlayState::default(),
        })
    }

    pub fn playbook(mut self, name: &str) -> Result<Playbook, Diagnostics> {
        let (source, text) = self.sources.open(name)?;
        let path = source.path();
        let plays = self.plays(source, text, &Imported::default());
        if self.wrong.is_empty() {
            Ok(Playbook { path, plays, texts: self.texts, sources: self.sources.clone() })
        } else {
            Err(Diagnostics(self.wrong))
        }
    }

    /// The file that is being read.
    pub fn current(&self) -> Option<&Source> {
        self.stack.last()
    }

    /// Parses a file; remembers its text for complaints.
    pub fn document(&mut self, source: &Source, text: String) -> Option<Document> {
        match Document::parse(source.path(), text) {
            Ok(document) => {
                let shown = document.error_at(&[], "").source.unwrap_or_else(|| document.text().clone());
                self.templates.remember(document.file(), shown.clone());
                self.texts.insert(document.file().to_owned(), shown);
                Some(document)
            }
            Err(wrong) => {
                self.wrong.push(wrong);
                None
            }
        }
    }

    fn plays(&mut self, source: Source, text: String, imported: &Imported) -> Vec<Play> {
        let Some(document) = self.document(&source, text) else { return Vec::new() };
        self.stack.push(source);
        let root = document.root();
        let mut plays = Vec::new();
        if !root.is_list() {
            let hint = root.is_map().then(|| "a play begins with `- hosts: …`".to_owned());
            self.wrong.push(unexpected(&root, "a list of plays").helps(hint));
        }
        for item in root.items() {
            if !item.is_map() {
                self.wrong.push(unexpected(&item, "a play, which is a map"));
            } else if let Some(import) = import_of(&item) {
                plays.extend(self.import_playbook(&item, &import, imported));
            } else {
                plays.extend(self.one_play(&item, imported));
            }
        }
        self.stack.pop();
        plays
    }

    fn import_playbook(&mut self, item: &Node<'_>, import: &Node<'_>, outer: &Imported) -> Vec<Play> {
        known_keys(item, "`import_playbook`", IMPORT, &[], &mut self.wrong);
        self.check_conditions(item, "when");
        let mut reader = Reader { wrong: &mut self.wrong };
        let mut imported = outer.clone();
        imported.when.extend(reader.conditions(item, "when"));
        imported.vars.extend(reader.map(item, "vars"));
        imported.tags.extend(reader.words(item, "tags"));
        let Some(name) = import.as_str() else {
            self.wrong.push(unexpected(import, "the name of a playbook"));
            return Vec::new();
        };
        match self.open(name, import, "playbook") {
            Some((source, text)) => self.plays(source, text, &imported),
            None => Vec::new(),
        }
    }

    /// Opens a file that `node` names; refuses circles.
    pub fn open(&mut self, name: &str, node: &Node<'_>, what: &str) -> Option<(Source, String)> {
        let from = self.current()?.clone();
        match self.sources.find(name, &from) {
            Ok(Some((source, text))) => {
                if self.stack.contains(&source) {
                    let chain: Vec<String> = self
                        .stack
                        .iter()
                        .chain([&source])
                        .map(|file| file.path().display().to_string())
                        .collect();
                    self.wrong.push(
                        node.error(format!("`{name}` imports itself"))
                            .label("this closes a circle")
                            .help(chain.join(" -> ")),
                    );
                    return None;
                }
                Some((source, text))
            }
            Ok(None) => {
                let neighbours = self.sources.neighbours(&from);
                self.wrong.push(
                    node.error(format!("there is no {what} `{name}`"))
                        .label("no such file")
                        .helps(did_you_mean(name, neighbours.iter().map(String::as_str))),
                );
                None
            }
            Err(wrong) => {
                self.wrong.push(wrong);
                None
            }
        }
    }

    fn one_play(&mut self, node: &Node<'_>, imported: &Imported) -> Option<Play> {
        self.play = PlayState::default();
        known_keys(node, "a play", PLAY, PLAY_REASONS, &mut self.wrong);
        self.settled(node, "any_errors_fatal", true, "the first failure on a host stops the run, always");
        self.one_of(node, "strategy", &["linear"]);
        self.one_of(node, "become_method", &["sudo"]);
        let mut reader = Reader { wrong: &mut self.wrong };
        let name = reader.text(node, "name");
        let r#become = reader.flag(node, "become");
        let become_user = reader.text(node, "become_user");
        let _ = reader.flag(node, "gather_facts");
        let vars = reader.map(node, "vars");
        let mut tags = imported.tags.clone();
        tags.extend(reader.words(node, "tags"));
        let hosts = reader.texts(node, "hosts").join(":");
        self.hosts(node);
        let (serial, order) = (self.serial(node), self.order(node));

        let inherited = Inherited { when: imported.when.clone(), tags: tags.clone(), ..Inherited::default() };
        let mut tasks = Vec::new();
        for (section, flush) in
            [("pre_tasks", true), ("tasks", node.get("post_tasks").is_some()), ("post_tasks", false)]
        {
            if let Some(list) = node.get(section) {
                tasks.extend(self.task_list(&list, &inherited, false));
                if flush {
                    tasks.push(flush_handlers(list.key_location(), &tags));
                }
            }
        }
        // A handler runs because it was notified, whatever tags its play has.
        let handlers = match node.get("handlers") {
            Some(list) => {
                self.task_list(&list, &Inherited { tags: tags.clone(), ..Inherited::default() }, true)
            }
            None => Vec::new(),
        };
        self.handlers(&handlers);
        let mut all_vars = imported.vars.clone();
        // What the importer says wins over the play's own, as the more particular.
        for (name, value) in vars {
            all_vars.entry(name).or_insert(value);
        }
        self.check_texts(&node.get("vars"));
        let name = name.unwrap_or_else(|| hosts.clone());
        Some(Play {
            name,
            hosts,
            serial,
            order,
            r#become,
            become_user,
            vars: all_vars,
            tags,
            tasks,
            handlers,
            at: node.location(),
        })
    }

    fn hosts(&mut self, node: &Node<'_>) {
        let Some(hosts) = node.get("hosts") else {
            self.wrong.push(node.error("the play has no `hosts`").label("expected `hosts: PATTERN`"));
            return;
        };
        let terms: Vec<&str> = hosts.items().filter_map(|item| item.value().as_str()).collect();
        let text = hosts.as_str().map_or_else(|| terms.join(":"), str::to_owned);
        if let Err(reason) = pattern::check(&text) {
            self.wrong.push(
                hosts
                    .error(format!("`{text}` is not a pattern of hosts: {reason}"))
                    .label("expected groups and hosts, joined by `:`, `:&` or `:!`"),
            );
        }
    }

    fn serial(&mut self, node: &Node<'_>) -> Vec<Serial> {
        let Some(serial) = node.get("serial") else { return Vec::new() };
        let items: Vec<Node<'_>> = if serial.is_list() { serial.items().collect() } else { vec![serial] };
        let mut sizes = Vec::new();
        for item in items {
            let text = item.value().to_string();
            let text = text.trim_matches('"');
            let size = match text.strip_suffix('%') {
                Some(percent) => {
                    percent.parse().ok().filter(|part| (1..=100).contains(part)).map(Serial::Percent)
                }
                None => text.parse().ok().filter(|hosts| *hosts > 0).map(Serial::Hosts),
            };
            match size {
                Some(size) => sizes.push(size),
                None => self.wrong.push(
                    item.error(format!("`serial`: `{text}` is not a number of hosts"))
                        .label("expected a number above 0, or a part such as `30%`"),
                ),
            }
        }
        sizes
    }

    fn order(&mut self, node: &Node<'_>) -> Order {
        const ORDERS: [(&str, Order); 4] = [
            ("inventory", Order::Inventory),
            ("reverse_inventory", Order::ReverseInventory),
            ("sorted", Order::Sorted),
            ("reverse_sorted", Order::ReverseSorted),
        ];
        self.one_of(node, "order", &ORDERS.map(|(word, _)| word));
        let word = node.get("order").and_then(|order| order.as_str().map(str::to_owned));
        ORDERS
            .iter()
            .find(|(known, _)| word.as_deref() == Some(known))
            .map(|(_, order)| *order)
            .unwrap_or_default()
    }

    /// A word that has one meaning here; the other is refused rather than silently ignored.
    fn settled(&mut self, node: &Node<'_>, key: &str, only: bool, why: &str) {
        let value = Reader { wrong: &mut self.wrong }.flag(node, key);
        if let (Some(value), Some(entry)) = (value, node.get(key))
            && value != only
        {
            self.wrong.push(entry.error(format!("`{key}` can't be {value}")).label(why));
        }
    }

    fn one_of(&mut self, node: &Node<'_>, key: &str, words: &[&str]) {
        let Some(entry) = node.get(key) else { return };
        if !entry.as_str().is_some_and(|word| words.contains(&word)) {
            let found = entry.as_str().map_or_else(|| entry.value().to_string(), str::to_owned);
            self.wrong.push(
                entry
                    .error(format!("`{key}`: `{found}` is not known"))
                    .label(format!("expected {}", words.join(", ")))
                    .helps(did_you_mean(&found, words.iter().copied())),
            );
        }
    }

    /// Handlers' names are distinct, and every notification has a handler.
    fn handlers(&mut self, handlers: &[Task]) {
        for (index, handler) in handlers.iter().enumerate() {
            if handlers[..index].iter().any(|earlier| earlier.name == handler.name) {
                self.wrong.push(
                    Diagnostic::error(format!("two handlers are named `{}`", handler.name))
                        .source(self.texts.get(&handler.at.file).cloned().unwrap_or_default())
                        .at(handler.at.clone())
                        .label("the second one"),
                );
            }
        }
        let words: Vec<&str> = handlers
            .iter()
            .flat_map(|handler| handler.listen.iter().map(String::as_str).chain([handler.name.as_str()]))
            .collect();
        for (name, diagnostic) in std::mem::take(&mut self.play.notified) {
            if !name.contains("{{") && !words.contains(&name.as_str()) {
                let known = words.join(", ");
                let all = (!words.is_empty()).then(|| format!("the play's handlers are: {known}"));
                let none = words.is_empty().then(|| "the play has no handlers".to_owned());
                let nearest = did_you_mean(&name, words.iter().copied());
                self.wrong.push(diagnostic.helps(nearest.or(all).or(none)));
            }
        }
    }
}

fn import_of<'n>(item: &Node<'n>) -> Option<Node<'n>> {
    item.entries()
        .find(|(key, _)| *key == "import_playbook" || *key == "ansible.builtin.import_playbook")
        .map(|(_, node)| node)
}

fn flush_handlers(at: Location, tags: &[String]) -> Task {
    let mut task = Task::bare("flush handlers", at, Action::FlushHandlers);
    task.tags = tags.to_vec();
    task.tags.push("always".to_owned());
    task
}
