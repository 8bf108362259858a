//! Reads tasks, blocks and files of tasks.

use super::{
    action::{Parsed, action_word, action_words},
    load::Loader,
    model::{Action, Task},
    read::{Reader, known_keys, unexpected},
};
use crate::{
    diagnostic::{Diagnostic, Location, did_you_mean, nearest},
    yaml::{Node, PathStep},
};
use serde_json::{Map, Value};

/// Words that a task may have beside its action.
const TASK: &[&str] = &[
    "name",
    "when",
    "loop",
    "with_items",
    "loop_control",
    "register",
    "notify",
    "tags",
    "run_once",
    "throttle",
    "delegate_to",
    "changed_when",
    "failed_when",
    "until",
    "retries",
    "delay",
    "no_log",
    "become",
    "become_user",
    "become_method",
    "vars",
    "check_mode",
    "args",
    "environment",
];

const BLOCK: &[&str] = &[
    "name",
    "block",
    "when",
    "tags",
    "become",
    "become_user",
    "vars",
    "no_log",
    "run_once",
    "delegate_to",
    "notify",
    "check_mode",
];

const REASONS: &[(&str, &str)] = &[
    ("ignore_errors", "there is no way to go on after an error; `failed_when` says what counts as one"),
    ("ignore_unreachable", "a host that can't be reached stops the run"),
    ("rescue", "the first failure on a host stops the run; run the playbook again to complete it"),
    ("always", "the first failure on a host stops the run; run the playbook again to complete it"),
    ("local_action", "tasks run on targets"),
    ("async", "tasks are waited for; `wait_for` waits for what goes on by itself"),
    ("poll", "tasks are waited for; `wait_for` waits for what goes on by itself"),
    ("timeout", "modules that can take long have a `timeout` of their own"),
    ("with_dict", "write `loop: \"{{ map | dict2items }}\"`"),
    ("with_fileglob", "name the files in `loop`"),
    ("with_sequence", "write `loop: \"{{ range(1, 5) }}\"`"),
    ("import_role", "put the role's tasks into a file and name it with `import_tasks`"),
    ("include_role", "put the role's tasks into a file and name it with `include_tasks`"),
    ("any_errors_fatal", "the first failure on a host stops the run, always"),
    ("delegate_facts", "facts belong to the host that they were found on"),
    ("listen", "`listen` is a word of handlers"),
];

/// What a task gets from the blocks, files and plays around it.
#[derive(Clone, Debug, Default)]
pub(super) struct Inherited {
    pub when: Vec<String>,
    pub tags: Vec<String>,
    pub vars: Map<String, Value>,
    pub r#become: Option<bool>,
    pub become_user: Option<String>,
    pub no_log: bool,
    pub run_once: bool,
    pub delegate_to: Option<String>,
    pub notify: Vec<String>,
    pub check_mode: Option<bool>,
}

impl Task {
    /// A task with nothing but a name and an action.
    pub(super) fn bare(name: impl Into<String>, at: Location, action: Action) -> Task {
        Task {
            name: name.into(),
            at,
            action,
            when: Vec::new(),
            r#loop: None,
            loop_var: "item".to_owned(),
            index_var: None,
            loop_label: None,
            register: None,
            notify: Vec::new(),
            listen: Vec::new(),
            tags: Vec::new(),
            run_once: false,
            throttle: None,
            delegate_to: None,
            changed_when: Vec::new(),
            failed_when: Vec::new(),
            until: Vec::new(),
            retries: 0,
            delay_secs: 0,
            no_log: false,
            r#become: None,
            become_user: None,
            vars: Map::new(),
            check_mode: None,
        }
    }
}

impl Loader<'_> {
    /// The tasks of a list, blocks and imports resolved.
    pub fn task_list(&mut self, list: &Node<'_>, inherited: &Inherited, handlers: bool) -> Vec<Task> {
        if !list.is_list() && !list.is_null() {
            self.wrong.push(unexpected(list, "a list of tasks"));
        }
        let mut tasks = Vec::new();
        for item in list.items() {
            if !item.is_map() {
                self.wrong.push(unexpected(&item, "a task, which is a map"));
            } else if let Some(block) = item.get("block") {
                known_keys(&item, "a block", BLOCK, REASONS, &mut self.wrong);
                let inner = self.inherit(&item, inherited);
                tasks.extend(self.task_list(&block, &inner, handlers));
            } else {
                tasks.extend(self.task(&item, inherited, handlers));
            }
        }
        tasks
    }

    /// The tasks of a file that `node` names.
    pub fn tasks_file(&mut self, name: &str, node: &Node<'_>) -> Option<Vec<Task>> {
        self.tasks_file_within(name, node, &Inherited::default(), false)
    }

    fn tasks_file_within(
        &mut self,
        name: &str,
        node: &Node<'_>,
        inherited: &Inherited,
        handlers: bool,
    ) -> Option<Vec<Task>> {
        let (source, text) = self.open(name, node, "file of tasks")?;
        let document = self.document(&source, text)?;
        self.stack.push(source);
        let tasks = self.task_list(&document.root(), inherited, handlers);
        self.stack.pop();
        Some(tasks)
    }

    /// What tasks within `node` (a block, or an import) get from it and from around it.
    fn inherit(&mut self, node: &Node<'_>, outer: &Inherited) -> Inherited {
        self.check_conditions(node, "when");
        self.check_texts(&node.get("vars"));
        self.note_notifications(node);
        let mut reader = Reader { wrong: &mut self.wrong };
        let mut inner = outer.clone();
        inner.when.extend(reader.conditions(node, "when"));
        inner.tags.extend(reader.words(node, "tags"));
        inner.vars.extend(reader.map(node, "vars"));
        inner.notify.extend(reader.texts(node, "notify"));
        inner.r#become = reader.flag(node, "become").or(inner.r#become);
        inner.become_user = reader.text(node, "become_user").or(inner.become_user);
        inner.no_log = reader.flag(node, "no_log").unwrap_or(inner.no_log);
        inner.run_once = reader.flag(node, "run_once").unwrap_or(inner.run_once);
        inner.delegate_to = reader.text(node, "delegate_to").or(inner.delegate_to);
        inner.check_mode = reader.flag(node, "check_mode").or(inner.check_mode);
        inner
    }

    fn task(&mut self, node: &Node<'_>, outer: &Inherited, handler: bool) -> Vec<Task> {
        let actions: Vec<(&str, Node<'_>)> = node
            .entries()
            .filter(|(key, _)| !TASK.contains(key))
            .filter_map(|(key, entry)| action_word(key).map(|word| (word, entry)))
            .collect();
        if !self.task_words(node, &actions, handler) {
            return Vec::new();
        }
        let inherited = self.inherit(node, outer);
        let [(word, action)] = actions.as_slice() else { return Vec::new() };
        let Some(parsed) = self.action(word, action, node) else { return Vec::new() };
        let action = match parsed {
            Parsed::Action(action) => action,
            Parsed::Import(file) => {
                if let Some(looped) = node.get("loop").or_else(|| node.get("with_items")) {
                    self.wrong
                        .push(looped.key_error("`import_tasks` can't loop").label("use `include_tasks`"));
                }
                return self.tasks_file_within(&file, action, &inherited, handler).unwrap_or_default();
            }
        };
        for key in ["changed_when", "failed_when", "until"] {
            self.check_conditions(node, key);
        }
        for key in ["name", "loop", "with_items", "delegate_to", "become_user", "environment", "args"] {
            self.check_texts(&node.get(key));
        }
        if !matches!(action, Action::Assert { .. }) {
            let (_, entry) = &actions[0];
            self.check_texts(&Some(entry.clone()));
        }
        let mut reader = Reader { wrong: &mut self.wrong };
        let name = reader.text(node, "name").unwrap_or_else(|| action.word().to_owned());
        let mut task = Task::bare(name, node.location(), action);
        task.r#loop = node.get("loop").or_else(|| node.get("with_items")).map(|list| list.value().clone());
        task.register = reader.text(node, "register");
        task.listen = if handler { reader.texts(node, "listen") } else { Vec::new() };
        task.changed_when = reader.conditions(node, "changed_when");
        task.failed_when = reader.conditions(node, "failed_when");
        task.until = reader.conditions(node, "until");
        task.retries =
            reader.number(node, "retries").map_or(3, |number| u32::try_from(number).unwrap_or(u32::MAX));
        task.throttle = reader.number(node, "throttle").and_then(|number| u32::try_from(number).ok());
        task.delay_secs = reader.number(node, "delay").unwrap_or(5);
        if let Some(control) = node.get("loop_control") {
            known_keys(&control, "`loop_control`", &["loop_var", "index_var", "label"], &[], reader.wrong);
            task.loop_var = reader.text(&control, "loop_var").unwrap_or_else(|| "item".to_owned());
            task.index_var = reader.text(&control, "index_var");
            task.loop_label = reader.text(&control, "label");
        }
        self.loop_is_a_list(node);
        self.variable_name(node, "register");
        task.when = inherited.when;
        task.tags = inherited.tags;
        task.vars = inherited.vars;
        task.notify = inherited.notify;
        task.r#become = inherited.r#become;
        task.become_user = inherited.become_user;
        task.no_log = inherited.no_log;
        task.run_once = inherited.run_once;
        task.delegate_to = inherited.delegate_to;
        task.check_mode = inherited.check_mode;
        vec![task]
    }

    /// Complains about words that a task doesn't know, and about none or several actions.
    fn task_words(&mut self, node: &Node<'_>, actions: &[(&str, Node<'_>)], handler: bool) -> bool {
        let before = self.wrong.len();
        for (key, entry) in node.entries() {
            let action = actions.iter().any(|(_, action)| action.key() == Some(key));
            if TASK.contains(&key) || action || (handler && key == "listen") {
                continue;
            }
            self.wrong.push(match REASONS.iter().find(|(word, _)| *word == key) {
                Some((_, reason)) => entry
                    .key_error(format!("`{key}` is not supported"))
                    .label("a word of Ansible that pgfleet doesn't have")
                    .help(*reason),
                None => self.unknown_word(key, &entry, actions.is_empty()),
            });
        }
        match actions {
            [_] => {}
            [] if self.wrong.len() == before => self.wrong.push(
                node.error("the task does nothing")
                    .label("expected a module, such as `apt`, `template` or `command`"),
            ),
            [] => {}
            [(first, _), (second, entry), ..] => self.wrong.push(
                entry
                    .key_error(format!("the task has two modules, `{first}` and `{second}`"))
                    .label("the second one")
                    .help("make two tasks of it"),
            ),
        }
        self.wrong.len() == before
    }

    fn unknown_word(&self, key: &str, entry: &Node<'_>, without_action: bool) -> Diagnostic {
        // A map below it, and nothing else that could be the action: a misspelt module.
        let keyword = nearest(key, TASK.iter().copied());
        let module = did_you_mean(key, action_words());
        if without_action && (keyword.is_none() || module.is_some()) {
            let diagnostic =
                entry.key_error(format!("unknown module `{key}`")).label("no module has this name");
            let foreign = module.is_none().then(|| {
                format!(
                    "modules are: {}",
                    crate::remote::modules().iter().map(|module| module.name).collect::<Vec<_>>().join(", ")
                )
            });
            return diagnostic.helps(module).helps(foreign);
        }
        entry
            .key_error(format!("unknown word `{key}`"))
            .label("not a word of a task")
            .helps(did_you_mean(key, TASK.iter().copied()))
    }

    fn loop_is_a_list(&mut self, node: &Node<'_>) {
        let Some(looped) = node.get("loop").or_else(|| node.get("with_items")) else { return };
        let template = looped.as_str().is_some_and(|text| text.contains("{{"));
        if !looped.is_list() && !template {
            let mut diagnostic = unexpected(&looped, "a list, or a template that gives one");
            if let Some(text) = looped.as_str() {
                diagnostic = diagnostic.help(format!("did you mean `\"{{{{ {text} }}}}\"`?"));
            }
            self.wrong.push(diagnostic);
        }
    }

    fn variable_name(&mut self, node: &Node<'_>, key: &str) {
        let Some(entry) = node.get(key) else { return };
        let Some(name) = entry.as_str() else { return };
        let valid = !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !valid {
            self.wrong.push(
                entry
                    .error(format!("`{key}`: `{name}` can't be a variable's name"))
                    .label("expected letters, digits and `_`"),
            );
        }
    }

    fn note_notifications(&mut self, node: &Node<'_>) {
        let Some(notify) = node.get("notify") else { return };
        let items: Vec<Node<'_>> = if notify.is_list() { notify.items().collect() } else { vec![notify] };
        for item in items {
            if let Some(name) = item.as_str() {
                let diagnostic = item
                    .error(format!("there is no handler `{name}`"))
                    .label("no handler of this play has the name or listens to it");
                self.play.notified.push((name.to_owned(), diagnostic));
            }
        }
    }

    /// Compiles the conditions under a key.
    pub fn check_conditions(&mut self, node: &Node<'_>, key: &str) {
        let Some(entry) = node.get(key) else { return };
        let items: Vec<Node<'_>> = if entry.is_list() { entry.items().collect() } else { vec![entry] };
        for item in items {
            let Some(text) = item.as_str() else { continue };
            let checked = if text.contains("{{") {
                self.templates.check(text, &item.location())
            } else {
                self.templates.check_condition(text, &item.location())
            };
            self.wrong.extend(checked.err());
        }
    }

    /// Compiles every template within a value.
    pub fn check_texts(&mut self, node: &Option<Node<'_>>) {
        let Some(node) = node else { return };
        if let Some(text) = node.as_str() {
            if text.contains("{{") || text.contains("{%") {
                self.wrong.extend(self.templates.check(text, &node.location()).err());
            }
        } else if node.is_list() {
            node.items().for_each(|item| self.check_texts(&Some(item)));
        } else if node.is_map() {
            for (_, entry) in node.entries() {
                debug_assert!(matches!(entry.path().last(), Some(PathStep::Key(_))));
                self.check_texts(&Some(entry));
            }
        }
    }
}
