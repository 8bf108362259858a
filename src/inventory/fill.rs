//! From definitions to values: defaults, and templates within values.

use super::{
    catalogue::VARIABLES,
    merge::Draft,
    source::{Definition, mismatched},
    variable::{Default, Known, is_templated},
};
use crate::{diagnostic::Diagnostics, model::HostName, template::Templates, yaml::Document};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

/// The values of a host, and what has to wait until the host has been connected to.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    pub vars: Map<String, Value>,
    pub waiting: Vec<Arc<Definition>>,
}

/// What every variable is when nobody sets it, where that is a value of its own.
static DEFAULTS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let parsed = |text: &str| Document::parse("default", text).map(|document| document.value().clone());
    let default = |variable: &super::variable::Variable| match variable.default {
        Default::Value(text) => parsed(text).ok(),
        Default::Unset | Default::Required | Default::Generated => Some(Value::Null),
        _ => None,
    };
    VARIABLES.iter().filter_map(|row| Some((row.name.to_owned(), default(row)?))).collect()
});

/// Fills in all that can be known. `base` holds what the engine gives (`inventory_hostname`, `groups`, ...);
/// it is not part of the result. Without facts, what needs them waits.
pub(super) fn fill(
    draft: &Draft,
    groups: &IndexMap<String, Vec<HostName>>,
    base: &Map<String, Value>,
    facts: &Map<String, Value>,
    templates: &Templates,
    wrong: &mut Diagnostics,
) -> Filled {
    let mut vars = DEFAULTS.clone();
    let mut waiting: Vec<Arc<Definition>> = Vec::new();
    for definition in draft.vars.values() {
        if is_templated(&definition.value) {
            vars.remove(&definition.name);
            waiting.push(definition.clone());
        } else {
            vars.insert(definition.name.clone(), definition.value.clone());
        }
    }
    loop {
        let computed = compute(draft, groups, facts, &mut vars, &waiting);
        let rendered = render(base, &mut vars, &mut waiting, facts, templates, wrong);
        if !computed && !rendered {
            break;
        }
    }
    Filled { vars, waiting }
}

/// Computes defaults whose inputs are known; whether there was one.
fn compute(
    draft: &Draft,
    groups: &IndexMap<String, Vec<HostName>>,
    facts: &Map<String, Value>,
    vars: &mut Map<String, Value>,
    waiting: &[Arc<Definition>],
) -> bool {
    let mut any = false;
    for variable in VARIABLES {
        let (Default::Computed { from, .. } | Default::FromHost { from, .. }) = variable.default else {
            continue;
        };
        if vars.contains_key(variable.name) || waiting.iter().any(|other| other.name == variable.name) {
            continue;
        }
        let known = Known { host: draft.name.as_str(), vars, groups, facts };
        if let Some(value) = from(&known) {
            vars.insert(variable.name.to_owned(), value);
            any = true;
        }
    }
    any
}

/// Renders the values whose variables are all known; whether there was one.
fn render(
    base: &Map<String, Value>,
    vars: &mut Map<String, Value>,
    waiting: &mut Vec<Arc<Definition>>,
    facts: &Map<String, Value>,
    templates: &Templates,
    wrong: &mut Diagnostics,
) -> bool {
    let unknown: HashSet<String> = waiting
        .iter()
        .map(|definition| definition.name.clone())
        .chain(VARIABLES.iter().map(|row| row.name.to_owned()).filter(|name| !vars.contains_key(name)))
        .collect();
    let ready = |definition: &Arc<Definition>| {
        let mut words = HashSet::new();
        words_of(&definition.value, &mut words);
        let of_host =
            words.iter().any(|word| *word == "ansible_facts" || word.starts_with("ansible_distribution"));
        !words.iter().any(|word| unknown.contains(*word)) && (!of_host || !facts.is_empty())
    };
    let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().partition(ready);
    *waiting = rest;
    let mut context = base.clone();
    context.extend(vars.clone());
    for definition in &ready {
        let value = templates.value(&definition.value, &context, &definition.origin.location());
        let value = value.and_then(|value| {
            let Some(variable) = super::catalogue::find(&definition.name) else { return Ok(value) };
            variable.kind.read(&value).map_err(|mismatch| {
                mismatched(&definition.name, mismatch, definition.origin.error(String::new()))
            })
        });
        match value {
            Ok(value) => {
                vars.insert(definition.name.clone(), value);
            }
            Err(mut diagnostic) => {
                diagnostic.source = Some(definition.origin.document.shown().clone());
                if !wrong.0.contains(&diagnostic) {
                    wrong.push(diagnostic);
                }
                vars.insert(definition.name.clone(), Value::Null);
            }
        }
    }
    !ready.is_empty()
}

/// The words of a value's texts that may be names of variables.
fn words_of<'a>(value: &'a Value, words: &mut HashSet<&'a str>) {
    match value {
        Value::String(text) => {
            words.extend(
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()),
            );
        }
        Value::Array(items) => items.iter().for_each(|item| words_of(item, words)),
        Value::Object(map) => map.values().for_each(|value| words_of(value, words)),
        _ => {}
    }
}
