//! Reading typed values out of a playbook's maps, with a complaint at the place of each that is wrong.

use crate::{
    diagnostic::{Diagnostic, did_you_mean},
    yaml::{Node, kind},
};
use serde_json::{Map, Value};

/// A value of the wrong kind.
pub(super) fn unexpected(node: &Node<'_>, expected: &str) -> Diagnostic {
    let key = node.key().map(|key| format!("`{key}`: ")).unwrap_or_default();
    node.error(format!("{key}expected {expected}, found {}", kind(node.value())))
        .label(format!("expected {expected}"))
}

/// Refuses keys that are not among `known`. `reasons` says of some keys why they are not.
pub(super) fn known_keys(
    node: &Node<'_>,
    what: &str,
    known: &[&str],
    reasons: &[(&str, &str)],
    wrong: &mut Vec<Diagnostic>,
) {
    for (key, entry) in node.entries() {
        if known.contains(&key) {
            continue;
        }
        wrong.push(match reasons.iter().find(|(word, _)| *word == key) {
            Some((_, reason)) => entry
                .key_error(format!("`{key}` is not supported"))
                .label("a word of Ansible that pgfleet doesn't have")
                .help(*reason),
            None => entry
                .key_error(format!("unknown word `{key}`"))
                .label(format!("not a word of {what}"))
                // A word that is there already was hardly meant a second time.
                .helps(did_you_mean(key, known.iter().copied().filter(|word| node.get(word).is_none()))),
        });
    }
}

/// Reads with an error list, so that a file's mistakes are reported together.
pub(super) struct Reader<'w> {
    pub wrong: &'w mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn value<'n, T>(
        &mut self,
        map: &Node<'n>,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = map.get(key)?;
        let value = read(node.value());
        if value.is_none() {
            self.wrong.push(unexpected(&node, expected));
        }
        value
    }

    pub fn text(&mut self, map: &Node<'_>, key: &str) -> Option<String> {
        self.value(map, key, "text", plain_text)
    }

    /// YAML's booleans, and the words for them that Ansible takes.
    pub fn flag(&mut self, map: &Node<'_>, key: &str) -> Option<bool> {
        self.value(map, key, "true or false", flag)
    }

    pub fn number(&mut self, map: &Node<'_>, key: &str) -> Option<u64> {
        self.value(map, key, "a whole number", |value| {
            value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
        })
    }

    /// A text or a list of texts.
    pub fn texts(&mut self, map: &Node<'_>, key: &str) -> Vec<String> {
        let Some(node) = map.get(key) else { return Vec::new() };
        if let Some(text) = plain_text(node.value()) {
            return vec![text];
        }
        if !node.is_list() {
            self.wrong.push(unexpected(&node, "text or a list of texts"));
        }
        let mut texts = Vec::new();
        for item in node.items() {
            match plain_text(item.value()) {
                Some(text) => texts.push(text),
                None => self.wrong.push(unexpected(&item, "text")),
            }
        }
        texts
    }

    /// A text with commas or a list of texts.
    pub fn words(&mut self, map: &Node<'_>, key: &str) -> Vec<String> {
        let texts = self.texts(map, key);
        let words = texts.iter().flat_map(|text| text.split(',')).map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    }

    /// Conditions: a boolean, an expression, or a list of them.
    pub fn conditions(&mut self, map: &Node<'_>, key: &str) -> Vec<String> {
        let Some(node) = map.get(key) else { return Vec::new() };
        let items: Vec<Node<'_>> = if node.is_list() { node.items().collect() } else { vec![node] };
        let mut conditions = Vec::new();
        for item in items {
            match item.value() {
                Value::Bool(holds) => conditions.push(holds.to_string()),
                Value::String(text) if !text.trim().is_empty() => conditions.push(text.clone()),
                _ => self.wrong.push(unexpected(&item, "a condition")),
            }
        }
        conditions
    }

    pub fn map(&mut self, map: &Node<'_>, key: &str) -> Map<String, Value> {
        let value = self.value(map, key, "a map", |value| match value {
            Value::Object(entries) => Some(entries.clone()),
            Value::Null => Some(Map::new()),
            _ => None,
        });
        value.unwrap_or_default()
    }
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(word) => match word.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" => Some(true),
            "no" | "false" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
