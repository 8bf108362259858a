//! `-e`: variables that win over every other.

use super::source::{self, Definitions, definitions};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    secret::Keyring,
    yaml::Document,
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// How a complaint names the place of an argument.
const ARGUMENT: &str = "--extra-vars";

/// Reads the arguments in their order: `name=value` pairs as a shell splits them, a JSON or YAML map, or
/// `@FILE` with one. Values of pairs are text; each variable's kind makes a number of them where it needs one.
pub(super) fn read(arguments: &[String], keys: &Keyring, wrong: &mut Diagnostics) -> Definitions {
    let mut found = Definitions::new();
    for argument in arguments {
        match one(argument, keys, wrong) {
            Ok(definitions) => found.extend(definitions),
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    found
}

fn one(argument: &str, keys: &Keyring, wrong: &mut Diagnostics) -> Result<Definitions, Diagnostic> {
    let text = argument.trim();
    if let Some(file) = text.strip_prefix('@') {
        let document = source::read(Path::new(file), keys);
        let document = Arc::new(document.map_err(|wrong| match wrong.at {
            Some(_) => wrong,
            None => wrong.help(format!("it is named by `{ARGUMENT} {text}`")),
        })?);
        return Ok(definitions(&document, &document.root(), wrong));
    }
    if text.starts_with('{') {
        let document = Arc::new(Document::parse(ARGUMENT, text)?);
        return Ok(definitions(&document, &document.root(), wrong));
    }
    pairs(text, wrong)
}

fn pairs(text: &str, wrong: &mut Diagnostics) -> Result<Definitions, Diagnostic> {
    let complaint = |message: String, word: &str| {
        let column = text.find(word).map_or(1, |offset| text[..offset].chars().count() + 1);
        Diagnostic::error(message)
            .at(Location::new(ARGUMENT, 1, column))
            .source(text)
            .length(word.chars().count())
            .label("expected `name=value`, a map `{\"name\": value}`, or `@FILE`")
    };
    let words = shlex::split(text).ok_or_else(|| complaint("a quote is not closed".to_owned(), text))?;
    if words.is_empty() {
        return Err(complaint("no variable is given".to_owned(), text));
    }
    let mut map = serde_json::Map::new();
    for word in &words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(complaint(format!("`{word}` sets no variable"), word));
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(complaint(format!("`{name}` is not a name for a variable"), name));
        }
        map.insert(name.to_owned(), Value::String(value.to_owned()));
    }
    // The words as YAML, so that complaints about them show a line like those about files do.
    let lines: String = map.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let document = Arc::new(Document::parse(ARGUMENT, lines)?);
    Ok(definitions(&document, &document.root(), wrong))
}
