//! Turns a task and a host's variables into steps: conditions decided, templates rendered, files read.
//! What comes out is complete; nothing is left to choose on the target.

use super::{segment, worker::Contents};
use crate::{
    diagnostic::Diagnostic,
    model::Digest,
    playbook::{Action, Task},
    remote::{self, protocol::Step},
    template::Templates,
};
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc};

/// One item of a task's loop, or the task itself where it has none.
pub enum Item {
    Step { step: Box<Step>, item: Option<Value> },
    Skipped { name: String },
}

/// What lowering needs besides the task and the variables.
pub struct Lowering<'a> {
    pub templates: &'a Templates,
    /// Maps what a task notifies (a handler's name, or a topic that handlers listen to) to handlers.
    pub handlers: &'a dyn Fn(&str) -> Vec<String>,
    /// Set when the task is a handler.
    pub settles: Option<&'a str>,
    pub r#become: bool,
}

/// The steps of a module task on one host, and the contents that they name.
pub fn lower(
    task: &Task,
    variables: &Map<String, Value>,
    next_id: &mut u32,
    contents: &mut Contents,
    with: &Lowering<'_>,
) -> Result<Vec<Item>, Diagnostic> {
    let mut scope = variables.clone();
    for (name, value) in &task.vars {
        let value = with.templates.value(value, &scope, &task.at)?;
        scope.insert(name.clone(), value);
    }
    let Some(items) = loop_items(task, &scope, with.templates)? else {
        return Ok(vec![one(task, None, &scope, next_id, contents, with)?]);
    };
    let mut lowered = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        scope.insert(task.loop_var.clone(), item.clone());
        if let Some(name) = &task.index_var {
            scope.insert(name.clone(), json!(index));
        }
        lowered.push(one(task, Some(item), &scope, next_id, contents, with)?);
    }
    Ok(lowered)
}

/// The items of the task's `loop`; `None` where it has none.
pub fn loop_items(
    task: &Task,
    scope: &Map<String, Value>,
    templates: &Templates,
) -> Result<Option<Vec<Value>>, Diagnostic> {
    let Some(items) = &task.r#loop else { return Ok(None) };
    match templates.value(items, scope, &task.at)? {
        Value::Array(items) => Ok(Some(items)),
        other => Err(Diagnostic::error(format!("`loop` of `{}` is not a list", task.name))
            .at(task.at.clone())
            .label(format!("expected a list, found {other}"))),
    }
}

/// Whether all conditions of `when` hold.
pub fn applies(task: &Task, scope: &Map<String, Value>, templates: &Templates) -> Result<bool, Diagnostic> {
    for condition in &task.when {
        if !templates.condition(condition, scope, &task.at)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn one(
    task: &Task,
    item: Option<Value>,
    scope: &Map<String, Value>,
    next_id: &mut u32,
    contents: &mut Contents,
    with: &Lowering<'_>,
) -> Result<Item, Diagnostic> {
    let applies = applies(task, scope, with.templates)?;
    let mut name =
        if applies { with.templates.render(&task.name, scope, &task.at)? } else { task.name.clone() };
    if let Some(item) = &item
        && !task.no_log
    {
        let label = match &task.loop_label {
            Some(text) if applies => with.templates.render(text, scope, &task.at)?,
            _ => label(item),
        };
        name = format!("{name} ({label})");
    }
    if !applies {
        return Ok(Item::Skipped { name });
    }
    let Action::Module { name: module, args } = &task.action else {
        return Ok(Item::Skipped { name });
    };
    let args = arguments(module, args, scope, contents, task, with.templates)?;
    let (module, args) = args;
    let resource = remote::parse(&module, args).map_err(|error| {
        Diagnostic::error(format!("`{module}` in `{}`: {error}", task.name)).at(task.at.clone())
    })?;
    let mut notify = Vec::new();
    for topic in &task.notify {
        let topic = with.templates.render(topic, scope, &task.at)?;
        notify.extend((with.handlers)(&topic));
    }
    *next_id += 1;
    let step = Step {
        id: *next_id,
        name,
        resource,
        notify,
        settles: with.settles.map(str::to_owned),
        become_user: match &task.become_user {
            Some(user) if with.r#become => Some(with.templates.render(user, scope, &task.at)?),
            _ => None,
        },
        changed: segment::verdict(&task.changed_when),
        failed: segment::verdict(&task.failed_when),
        no_log: task.no_log,
    };
    Ok(Item::Step { step: Box::new(step), item })
}

/// Renders a module's arguments, and turns what names a file of the control machine into its content.
fn arguments(
    module: &str,
    args: &Value,
    scope: &Map<String, Value>,
    contents: &mut Contents,
    task: &Task,
    templates: &Templates,
) -> Result<(String, Value), Diagnostic> {
    let mut args = templates.value(args, scope, &task.at)?;
    let Some(map) = args.as_object_mut() else { return Ok((module.to_owned(), args)) };
    let mut hold = |content: Vec<u8>| {
        let digest = Digest::of(&content);
        let reference = json!({"sha256": digest, "size": content.len()});
        contents.insert(digest, Arc::from(content));
        reference
    };
    match module {
        "template" | "systemd_unit" if map.get("src").is_some_and(Value::is_string) => {
            let src = take_text(map, "src");
            let text = templates.render_file(&src, scope)?;
            map.insert("content".to_owned(), hold(text.into_bytes()));
            let module = if module == "template" { "copy" } else { module };
            return Ok((module.to_owned(), args));
        }
        "copy" | "systemd_unit" | "blockinfile" if map.get("content").is_some_and(Value::is_string) => {
            let text = take_text(map, "content");
            map.insert("content".to_owned(), hold(text.into_bytes()));
        }
        "copy" | "unarchive"
            if map.get("src").is_some_and(Value::is_string)
                && map.get("remote_src").is_none_or(|remote| remote == &Value::Bool(false))
                && !map["src"].as_str().is_some_and(|src| src.contains("://")) =>
        {
            let src = take_text(map, "src");
            let content = read(&src, task)?;
            map.insert("content".to_owned(), hold(content));
        }
        _ => {}
    }
    Ok((module.to_owned(), args))
}

fn take_text(map: &mut Map<String, Value>, key: &str) -> String {
    match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// Reads a file of the control machine: as it is named, else beside the playbook, else in its `files/`.
fn read(src: &str, task: &Task) -> Result<Vec<u8>, Diagnostic> {
    let beside = task.at.file.parent().unwrap_or(Path::new("."));
    let candidates = [Path::new(src).to_path_buf(), beside.join(src), beside.join("files").join(src)];
    let found = candidates.iter().find(|path| path.is_file());
    let missing = |why: String| {
        Diagnostic::error(format!("`{src}` of `{}` cannot be read: {why}", task.name))
            .at(task.at.clone())
            .help("name a file of this machine, absolute or relative to the playbook")
    };
    match found {
        Some(path) => std::fs::read(path).map_err(|error| missing(error.to_string())),
        None => Err(missing("no such file".to_owned())),
    }
}

/// A loop's item, short enough for a line.
fn label(item: &Value) -> String {
    let text = match item {
        Value::String(text) => text.clone(),
        Value::Object(entries) => match entries.get("name") {
            Some(Value::String(name)) => name.clone(),
            _ => item.to_string(),
        },
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
