//! Walking through a document with the position of each value at hand.

use super::{Document, PathStep};
use crate::diagnostic::{Diagnostic, Location};
use serde_json::Value;

/// A value within a document, and how it was reached.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    document: &'a Document,
    value: &'a Value,
    path: Vec<PathStep<'a>>,
}

impl<'a> Node<'a> {
    pub(super) fn root(document: &'a Document) -> Self {
        Self { document, value: &document.value, path: Vec::new() }
    }

    pub fn document(&self) -> &'a Document {
        self.document
    }

    pub fn value(&self) -> &'a Value {
        self.value
    }

    pub fn path(&self) -> &[PathStep<'a>] {
        &self.path
    }

    /// The last key on the way here; none for the root and for items of a list.
    pub fn key(&self) -> Option<&'a str> {
        match self.path.last() {
            Some(PathStep::Key(key)) => Some(key),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    pub fn is_map(&self) -> bool {
        self.value.is_object()
    }

    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The value under a key of a map.
    pub fn get(&self, key: &str) -> Option<Node<'a>> {
        let (key, value) = self.value.as_object()?.get_key_value(key)?;
        Some(self.step(PathStep::Key(key), value))
    }

    /// The entries of a map, in the file's order; nothing for anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + '_ {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), self.step(PathStep::Key(key), value)))
    }

    /// The items of a list; nothing for anything else.
    pub fn items(&self) -> impl Iterator<Item = Node<'a>> + '_ {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| self.step(PathStep::Index(index), value))
    }

    /// Where the value stands.
    pub fn location(&self) -> Location {
        self.document.locate(&self.path)
    }

    /// Where the key of this value stands.
    pub fn key_location(&self) -> Location {
        self.document.locate_key(&self.path)
    }

    /// A complaint about the value.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        self.document.error_at(&self.path, message)
    }

    /// A complaint about the key of this value.
    pub fn key_error(&self, message: impl Into<String>) -> Diagnostic {
        self.document.error_at_key(&self.path, message)
    }

    fn step(&self, step: PathStep<'a>, value: &'a Value) -> Node<'a> {
        let mut path = self.path.clone();
        path.push(step);
        Node { document: self.document, value, path }
    }
}

/// What a value is, in the words of a complaint: "a list", "text", ...
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
