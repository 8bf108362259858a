//! Text to value, strictly: what would be read wrongly is refused with its position.

use super::{Open, positions::Position};
use crate::{diagnostic::Diagnostic, model::Secret};
use serde::de::{
    self, Deserialize, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map, Number, Value};
use std::{cell::RefCell, fmt};

/// Why a text is not acceptable, and where.
pub(super) struct Wrong {
    pub message: String,
    pub position: Position,
    pub expected: String,
    pub help: Vec<String>,
}

/// Opens the values of a text that Ansible Vault has sealed.
pub(super) struct Opening<'a> {
    open: Open<'a>,
    opened: RefCell<Vec<Secret>>,
    /// Why the last one stays closed; an error of serde's holds a sentence alone.
    closed: RefCell<Option<Diagnostic>>,
}

impl<'a> Opening<'a> {
    pub fn new(open: Open<'a>) -> Self {
        Self { open, opened: RefCell::default(), closed: RefCell::default() }
    }

    /// What was opened.
    pub fn into_opened(self) -> Vec<Secret> {
        self.opened.into_inner()
    }

    fn open<E: de::Error>(&self, sealed: &str) -> Result<Value, E> {
        match (self.open)(sealed) {
            Ok(text) => {
                let value = Value::String(text.expose().to_owned());
                self.opened.borrow_mut().push(text);
                Ok(value)
            }
            Err(closed) => {
                let message = closed.message.clone();
                *self.closed.borrow_mut() = Some(closed);
                Err(E::custom(message))
            }
        }
    }
}

const DUPLICATE: &str = "duplicate key ";
const BRACES: &str = "unquoted braces";
const KEY: &str = "a key must be text";
const VAULT: &str = "what Ansible Vault has sealed is opened in inventories and their variables alone";

/// Parses one document. Nothing but comments is `null`.
pub(super) fn value(text: &str, opening: Option<&Opening<'_>>) -> Result<Value, Wrong> {
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(first) = documents.next() else { return Ok(Value::Null) };
    let value = Any(opening).deserialize(first).or_else(|error| {
        let (message, position) = split_position(&error);
        if let Some(closed) = opening.and_then(|opening| opening.closed.take()) {
            let position = position.unwrap_or((1, 1));
            Err(Wrong { message: closed.message, position, expected: String::new(), help: closed.help })
        } else if message.contains("EOF while parsing") {
            Ok(Value::Null)
        } else {
            Err(explain(text, message, position))
        }
    })?;
    if documents.next().is_some() {
        return Err(second_document(text));
    }
    Ok(value)
}

/// What an error says apart from its position, and its position.
pub(super) fn split_position(error: &serde_yaml::Error) -> (String, Option<Position>) {
    let text = error.to_string();
    let position = error.location().map(|at| (at.line().max(1), at.column().max(1)));
    let end = [" at line ", " at position "].iter().filter_map(|word| text.find(word)).min();
    (end.map_or(text.as_str(), |end| &text[..end]).to_owned(), position)
}

fn explain(text: &str, message: String, position: Option<Position>) -> Wrong {
    let position = position.unwrap_or((1, 1));
    // serde_yaml puts the path before messages of our own.
    let own = |prefix: &str| message.find(prefix).map(|start| message[start..].to_owned());
    if let Some(message) = own(DUPLICATE) {
        let expected = "this key was already given above".to_owned();
        return Wrong { message, position, expected, help: vec!["remove one of the two".to_owned()] };
    }
    if own(BRACES).is_some() || follows_braces(text, position) {
        return unquoted_braces(text, position);
    }
    if let Some(message) = own(KEY).or_else(|| own(VAULT)) {
        return Wrong { message, position, expected: String::new(), help: Vec::new() };
    }
    if let Some(message) = own("the tag ") {
        let expected = "remove the tag".to_owned();
        return Wrong { message, position, expected, help: Vec::new() };
    }
    let line = text.lines().nth(position.0 - 1).unwrap_or_default();
    let help = if line.chars().take(position.1).any(|c| c == '\t') {
        Some("indent with spaces; YAML does not allow tabs".to_owned())
    } else if message.contains("did not find expected ','") {
        Some(
            "within `{ }` and `[ ]`, quote texts that contain one of [ ] { } , and close each bracket"
                .to_owned(),
        )
    } else if message.contains("did not find expected") || message.contains("mapping values are not allowed")
    {
        Some(
            "compare its indentation with the lines above, and quote texts that contain `: ` or ` #`"
                .to_owned(),
        )
    } else if message.contains("found character that cannot start any token") {
        Some("quote texts that begin with one of @ ` % & * ! | > { [".to_owned())
    } else {
        None
    };
    Wrong {
        message: format!("not valid YAML: {message}"),
        position,
        expected: String::new(),
        help: help.into_iter().collect(),
    }
}

/// Whether the line has an unquoted `{{` as a value before or at the place where parsing failed.
fn follows_braces(text: &str, (line, _): Position) -> bool {
    text.lines()
        .nth(line - 1)
        .is_some_and(|line| line.contains(": {{") || line.trim_start().starts_with("- {{"))
}

fn unquoted_braces(text: &str, (line, column): Position) -> Wrong {
    let source = text.lines().nth(line - 1).unwrap_or_default();
    let start = source.find("{{").unwrap_or_default();
    let value = source[start..].split(" #").next().unwrap_or_default().trim_end();
    let before = source[..start].trim_start();
    let column = if source[start..].starts_with("{{") { source[..start].chars().count() + 1 } else { column };
    Wrong {
        message: "a value that begins with `{{` must be quoted".to_owned(),
        position: (line, column),
        expected: String::new(),
        help: vec![format!("write it as `{before}\"{value}\"`")],
    }
}

fn second_document(text: &str) -> Wrong {
    let starts =
        text.lines().enumerate().filter(|(_, line)| line.starts_with("---")).map(|(index, _)| index + 1);
    // The first `---` opens the first document when nothing but comments stands above it.
    let opening = text
        .lines()
        .position(|line| !line.trim().is_empty() && !line.starts_with('#') && !line.starts_with('%'))
        .map(|index| index + 1);
    let line = starts.into_iter().find(|line| Some(*line) != opening).unwrap_or(1);
    Wrong {
        message: "more than one YAML document".to_owned(),
        position: (line, 1),
        expected: "expected one document in a file".to_owned(),
        help: Vec::new(),
    }
}

/// Reads anything; what is sealed where it can be opened.
#[derive(Clone, Copy)]
struct Any<'a>(Option<&'a Opening<'a>>);

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinity; the word is kept.
        Ok(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = entries.next_key_seed(Key(&map))? {
            let value = entries.next_value_seed(self)?;
            match (key.as_str(), value) {
                ("<<", Value::Object(parent)) => merged.push(parent),
                ("<<", Value::Array(parents)) if parents.iter().all(Value::is_object) => {
                    merged.extend(parents.into_iter().filter_map(|parent| match parent {
                        Value::Object(parent) => Some(parent),
                        _ => None,
                    }));
                }
                ("<<", _) => return Err(de::Error::custom("`<<` takes a map or a list of maps")),
                (_, value) => {
                    map.insert(key, value);
                }
            }
        }
        for (key, value) in merged.into_iter().flatten() {
            map.entry(key).or_insert(value);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, content) = tagged.variant::<Tag>()?;
        if tag.0 == "vault" {
            let Some(opening) = self.0 else { return Err(de::Error::custom(VAULT)) };
            return opening.open(&content.newtype_variant::<String>()?);
        }
        Err(de::Error::custom(format!("the tag `!{}` has no meaning here", tag.0)))
    }
}

/// Reads a key as it is written, and refuses one that the map already has.
struct Key<'a>(&'a Map<String, Value>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.0.contains_key(key) {
            return Err(E::custom(format!("{DUPLICATE}`{key}`")));
        }
        Ok(key.to_owned())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom(BRACES))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom(KEY))
    }
}

/// The name of a tag without its `!`.
struct Tag(String);

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|tag| Tag(tag.trim_start_matches('!').to_owned()))
    }
}
