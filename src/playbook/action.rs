//! Which word of a task is the one that says what to do, and what its arguments come to.

use super::{
    load::Loader,
    model::{Action, Debug, Include},
    read::{Reader, flag, known_keys, unexpected},
};
use crate::{
    diagnostic::did_you_mean,
    remote::{self, Module},
    yaml::Node,
};
use serde_json::{Map, Value};

/// Words that are carried out on the control machine.
const CONTROL: &[&str] = &["assert", "debug", "fail", "set_fact", "meta", "include_tasks", "import_tasks"];

/// The word without Ansible's collection before it, when it names an action.
pub(super) fn action_word(word: &str) -> Option<&str> {
    let plain = word.rsplit_once('.').map_or(word, |(_, plain)| plain);
    (CONTROL.contains(&plain) || remote::module(plain).is_some()).then_some(plain)
}

/// Every word that an action can have.
pub(super) fn action_words() -> impl Iterator<Item = &'static str> {
    let modules =
        remote::modules().iter().flat_map(|module| module.aliases.iter().copied().chain([module.name]));
    CONTROL.iter().copied().chain(modules)
}

/// What an action's entry in a task comes to.
pub(super) enum Parsed {
    Action(Action),
    /// `import_tasks`: replaced by the tasks of the file.
    Import(String),
}

impl Loader<'_> {
    /// Reads the action under `node`'s key. Complaints are noted; none when there is nothing to go on with.
    pub(super) fn action(&mut self, word: &str, node: &Node<'_>, task: &Node<'_>) -> Option<Parsed> {
        match word {
            "include_tasks" | "import_tasks" => self.file_of_tasks(word, node),
            "meta" => match node.as_str() {
                Some("flush_handlers") => Some(Parsed::Action(Action::FlushHandlers)),
                _ => {
                    self.wrong.push(
                        node.error("`meta` here knows `flush_handlers` alone")
                            .label("expected `flush_handlers`"),
                    );
                    None
                }
            },
            "assert" => self.assert(node),
            "debug" => self.debug(node),
            "fail" => {
                let args = self.control_args(node, "fail", &["msg"])?;
                let msg = args.get("msg").and_then(Value::as_str);
                Some(Parsed::Action(Action::Fail {
                    msg: msg.unwrap_or("failed as asked by the task").to_owned(),
                }))
            }
            "set_fact" => match node.value() {
                Value::Object(facts) => {
                    let facts = facts.iter().filter(|(name, _)| *name != "cacheable");
                    Some(Parsed::Action(Action::SetFact(
                        facts.map(|(name, value)| (name.clone(), value.clone())).collect(),
                    )))
                }
                _ => {
                    self.wrong.push(unexpected(node, "a map of variables"));
                    None
                }
            },
            _ => {
                let module = remote::module(word)?;
                let args = self.module_args(module, node, task)?;
                Some(Parsed::Action(Action::Module {
                    name: module.name.to_owned(),
                    args: Value::Object(args),
                }))
            }
        }
    }

    fn file_of_tasks(&mut self, word: &str, node: &Node<'_>) -> Option<Parsed> {
        let file = match node.value() {
            Value::String(file) => file.clone(),
            Value::Object(_) => {
                known_keys(node, &format!("`{word}`"), &["file"], &[], &mut self.wrong);
                Reader { wrong: &mut self.wrong }.text(node, "file")?
            }
            _ => {
                self.wrong.push(unexpected(node, "the name of a file of tasks"));
                return None;
            }
        };
        if word == "import_tasks" {
            if file.contains("{{") {
                self.wrong.push(
                    node.error("`import_tasks` is read before any variable is known")
                        .label("expected a plain file name")
                        .help("`include_tasks` takes templates"),
                );
                return None;
            }
            return Some(Parsed::Import(file));
        }
        let from = self.current()?.clone();
        let tasks = if file.contains("{{") { None } else { Some(self.tasks_file(&file, node)?) };
        Some(Parsed::Action(Action::IncludeTasks(Include { file, tasks, from, chain: self.stack.clone() })))
    }

    fn assert(&mut self, node: &Node<'_>) -> Option<Parsed> {
        known_keys(
            node,
            "`assert`",
            &["that", "fail_msg", "msg", "success_msg", "quiet"],
            &[],
            &mut self.wrong,
        );
        let mut reader = Reader { wrong: &mut self.wrong };
        let that = reader.conditions(node, "that");
        let fail_msg = reader.text(node, "fail_msg").or_else(|| reader.text(node, "msg"));
        let success_msg = reader.text(node, "success_msg");
        if node.get("that").is_none() {
            self.wrong.push(
                node.key_error("`assert` has no `that`").label("expected `that`, a list of conditions"),
            );
        }
        self.check_conditions(node, "that");
        Some(Parsed::Action(Action::Assert { that, fail_msg, success_msg }))
    }

    fn debug(&mut self, node: &Node<'_>) -> Option<Parsed> {
        let args = self.control_args(node, "debug", &["msg", "var", "verbosity"])?;
        match (args.get("msg"), args.get("var").and_then(Value::as_str)) {
            (Some(msg), None) => Some(Parsed::Action(Action::Debug(Debug::Msg(msg.clone())))),
            (None, Some(var)) => Some(Parsed::Action(Action::Debug(Debug::Var(var.to_owned())))),
            _ => {
                self.wrong.push(
                    node.key_error("`debug` needs either `msg` or `var`").label("expected one of them"),
                );
                None
            }
        }
    }

    fn control_args(&mut self, node: &Node<'_>, word: &str, known: &[&str]) -> Option<Map<String, Value>> {
        match node.value() {
            Value::Object(map) => {
                known_keys(node, &format!("`{word}`"), known, &[], &mut self.wrong);
                Some(map.clone())
            }
            Value::String(text) => self.pairs(node, text),
            Value::Null => Some(Map::new()),
            _ => {
                self.wrong.push(unexpected(node, "a map of arguments"));
                None
            }
        }
    }

    fn module_args(
        &mut self,
        module: &Module,
        node: &Node<'_>,
        task: &Node<'_>,
    ) -> Option<Map<String, Value>> {
        let mut args = match node.value() {
            Value::Object(map) => {
                self.known_arguments(module, node);
                map.clone()
            }
            Value::String(text) => match module.free_form {
                Some(field) => free_form(text, field, module.fields),
                None => self.pairs(node, text)?,
            },
            Value::Null => Map::new(),
            _ => {
                self.wrong.push(unexpected(node, "a map of arguments"));
                return None;
            }
        };
        if let Some(further) = task.get("args") {
            if further.is_map() {
                self.known_arguments(module, &further);
            } else {
                self.wrong.push(unexpected(&further, "a map of arguments"));
            }
            args.extend(further.value().as_object().cloned().unwrap_or_default());
        }
        if let Some(environment) = task.get("environment") {
            if module.fields.contains(&"environment") {
                args.insert("environment".to_owned(), environment.value().clone());
            } else {
                self.wrong.push(
                    environment
                        .key_error(format!("`environment` has no effect on `{}`", module.name))
                        .label("only commands have an environment"),
                );
            }
        }
        if node.is_map() || node.is_null() {
            for (key, value) in &args {
                if !module.fields.contains(&key.as_str()) && !node.is_map() {
                    self.wrong
                        .push(node.error(format!("`{}` has no argument `{key}` ({value})", module.name)));
                }
            }
        } else {
            for key in args.keys().filter(|key| !module.fields.contains(&key.as_str())) {
                self.wrong.push(
                    node.error(format!("unknown argument `{key}` of `{}`", module.name))
                        .label(format!("`{}` has no such argument", module.name))
                        .helps(did_you_mean(key, module.fields.iter().copied())),
                );
            }
        }
        self.literal_arguments(module, node, &args);
        Some(args)
    }

    fn known_arguments(&mut self, module: &Module, node: &Node<'_>) {
        for (key, entry) in node.entries().filter(|(key, _)| !module.fields.contains(key)) {
            let nearest = did_you_mean(key, module.fields.iter().copied());
            let all = nearest.is_none().then(|| format!("it has: {}", module.fields.join(", ")));
            self.wrong.push(
                entry
                    .key_error(format!("unknown argument `{key}` of `{}`", module.name))
                    .label(format!("`{}` has no such argument", module.name))
                    .helps(nearest)
                    .helps(all),
            );
        }
    }

    /// Arguments without templates can be judged now, rather than on the first host.
    fn literal_arguments(&mut self, module: &Module, node: &Node<'_>, args: &Map<String, Value>) {
        let value = Value::Object(args.clone());
        let text = value.to_string();
        let lowered = args.contains_key("src") && module.fields.contains(&"src");
        let unknown = args.keys().any(|key| !module.fields.contains(&key.as_str()));
        if text.contains("{{") || text.contains("{%") || lowered || unknown || module.name == "template" {
            return;
        }
        if let Err(reason) = remote::parse(module.name, value) {
            let named = reason.split('`').nth(1).unwrap_or_default().split('.').next().unwrap_or_default();
            let diagnostic = match node.get(named) {
                Some(argument) => argument.error(format!("`{}`: {reason}", module.name)),
                None => node.key_error(format!("`{}`: {reason}", module.name)),
            };
            self.wrong.push(diagnostic);
        }
    }

    /// `key=value key2='a b'`
    fn pairs(&mut self, node: &Node<'_>, text: &str) -> Option<Map<String, Value>> {
        let words = split_words(text);
        let mut args = Map::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                self.wrong.push(
                    unexpected(node, "a map of arguments").help("the short form is `key=value key=value`"),
                );
                return None;
            };
            let value = match flag(&Value::String(value.to_owned())) {
                Some(flag) if value != "on" && value != "off" => Value::Bool(flag),
                _ => Value::String(value.to_owned()),
            };
            args.insert(key.to_owned(), value);
        }
        Some(args)
    }
}

/// `LINE creates=PATH`: arguments may stand among the words of a command.
fn free_form(text: &str, field: &str, fields: &[&str]) -> Map<String, Value> {
    const INLINE: &[&str] = &["creates", "removes", "chdir", "executable", "stdin"];
    let mut args = Map::new();
    let mut line = text.trim().to_owned();
    for word in text.split_whitespace() {
        if let Some((key, value)) = word.split_once('=')
            && INLINE.contains(&key)
            && fields.contains(&key)
            && !value.is_empty()
            && !value.starts_with(['"', '\''])
        {
            args.insert(key.to_owned(), Value::String(value.to_owned()));
            line = line.replacen(word, "", 1);
        }
    }
    args.insert(field.to_owned(), Value::String(line.trim().to_owned()));
    args
}

/// Words between white space; quotes and `{{ }}` hold words together.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut braces = 0_usize;
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open && braces == 0 => quote = None,
            (None, '\'' | '"') if braces == 0 => quote = Some(letter),
            (None, letter) if letter.is_whitespace() && braces == 0 => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, letter) => {
                match letter {
                    '{' => braces += 1,
                    '}' => braces = braces.saturating_sub(1),
                    _ => {}
                }
                word.push(letter);
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
