//! The variables that a task sees: Ansible's layers, with templates inside of values resolved.

use crate::{diagnostic::Location, template::Templates};
use serde_json::{Map, Value};

/// Adds `variables` to what is known; templates inside of them are resolved by each other and by what is
/// known, until nothing moves.
///
/// A value that cannot be rendered yet (it names a loop's item, or something that a later task
/// registers) is left out, so that a template which uses it fails with that name.
pub fn resolve(
    variables: Map<String, Value>,
    mut known: Map<String, Value>,
    templates: &Templates,
    at: &Location,
) -> Map<String, Value> {
    let mut pending = Vec::new();
    for (name, value) in variables {
        if is_template(&value) {
            known.remove(&name);
            pending.push((name, value));
        } else {
            known.insert(name, value);
        }
    }
    // A value that mentions another unresolved one waits for it: `default` in it would hide that.
    while !pending.is_empty()
        && (pass(&mut pending, &mut known, templates, at, true)
            || pass(&mut pending, &mut known, templates, at, false))
    {}
    known
}

/// Renders what can be rendered now; returns whether anything moved.
fn pass(
    pending: &mut Vec<(String, Value)>,
    known: &mut Map<String, Value>,
    templates: &Templates,
    at: &Location,
    wait: bool,
) -> bool {
    let names: Vec<String> = pending.iter().map(|(name, _)| name.clone()).collect();
    let before = pending.len();
    pending.retain(|(name, value)| {
        if wait
            && names.iter().any(|other| other != name && !known.contains_key(other) && mentions(value, other))
        {
            return true;
        }
        match templates.value(value, known, at) {
            Ok(rendered) => known.insert(name.clone(), rendered).is_some(),
            Err(_) => true,
        }
    });
    pending.len() < before
}

/// Whether any template inside of `value` contains `name` as a word.
fn mentions(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text.match_indices(name).any(|(start, _)| {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            !text[..start].ends_with(word)
                && !text[start + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
        }),
        Value::Array(items) => items.iter().any(|item| mentions(item, name)),
        Value::Object(entries) => entries.values().any(|entry| mentions(entry, name)),
        _ => false,
    }
}

/// Lays `over` on top of `under`: whole values, as Ansible does by default.
pub fn overlay(under: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (name, value) in over {
        under.insert(name.clone(), value.clone());
    }
}

fn is_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{") || text.contains("{%"),
        Value::Array(items) => items.iter().any(is_template),
        Value::Object(entries) => entries.values().any(is_template),
        _ => false,
    }
}
