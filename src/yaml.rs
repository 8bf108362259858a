//! YAML in and out, and the only user of serde_yaml.
//!
//! Owns what a file may say at all: one document, no duplicate keys, text keys, no unknown tags; and where in
//! the file each value stands. Values are handed out as `serde_json::Value` with the file's order kept. Never
//! knows what a key means.

mod mask;
mod node;
mod parse;
mod positions;
mod quote;

pub use mask::{cover, is_secret_key};
pub use node::{Node, kind};

use crate::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    model::Secret,
};
use parse::Opening;
use positions::Positions;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// How a text begins that Ansible Vault has sealed.
pub const SEALED: &str = "$ANSIBLE_VAULT";

/// Opens such a text; the error says why it stays closed and what to do, and needs no place.
pub type Open<'a> = &'a dyn Fn(&str) -> Result<Secret, Diagnostic>;

/// A step from a value to one within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStep<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> From<&'a str> for PathStep<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for PathStep<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A file that holds one YAML document.
#[derive(Debug)]
pub struct Document {
    file: PathBuf,
    text: Arc<str>,
    /// The text as complaints show it: values of secret keys are covered.
    shown: Arc<str>,
    value: Value,
    positions: OnceLock<Positions>,
    /// The values that were sealed one by one.
    opened: Vec<Secret>,
    sealed: bool,
}

impl Document {
    /// Reads and parses a file; the error says whether it could not be read or is not valid.
    pub fn read(path: &Path) -> Result<Document, Diagnostic> {
        Self::parse(path, read_text(path)?)
    }

    /// As [`Document::read`], with what Ansible Vault has sealed: the whole file, or values with `!vault`.
    pub fn read_sealed(path: &Path, open: Open<'_>) -> Result<Document, Diagnostic> {
        Self::parse_sealed(path, read_text(path)?, open)
    }

    /// Parses a text that came from the named file. An empty text is `null`.
    pub fn parse(name: impl Into<PathBuf>, text: impl Into<String>) -> Result<Document, Diagnostic> {
        let text = text.into();
        let shown = mask::cover_secrets(&text);
        Self::build(name.into(), text, shown, None)
    }

    /// As [`Document::parse`], with what Ansible Vault has sealed.
    pub fn parse_sealed(
        name: impl Into<PathBuf>,
        text: impl Into<String>,
        open: Open<'_>,
    ) -> Result<Document, Diagnostic> {
        let text = text.into();
        if !text.starts_with(SEALED) {
            let shown = mask::cover_secrets(&text);
            return Self::build(name.into(), text, shown, Some(Opening::new(open)));
        }
        let text = open(&text)?.expose().to_owned();
        let shown = mask::cover_everything(&text);
        let document = Self::build(name.into(), text, shown, Some(Opening::new(open)))?;
        Ok(Document { sealed: true, ..document })
    }

    /// Parses a text of which complaints show keys alone.
    pub fn parse_covered(name: impl Into<PathBuf>, text: &Secret) -> Result<Document, Diagnostic> {
        let shown = mask::cover_everything(text.expose());
        Self::build(name.into(), text.expose().to_owned(), shown, None)
    }

    fn build(
        file: PathBuf,
        text: String,
        shown: String,
        opening: Option<Opening<'_>>,
    ) -> Result<Document, Diagnostic> {
        let (text, shown): (Arc<str>, Arc<str>) = (text.into(), shown.into());
        let value = parse::value(&text, opening.as_ref()).map_err(|wrong| {
            let (line, column) = wrong.position;
            Diagnostic::error(wrong.message)
                .length(token_length(&shown, line, column))
                .at(Location { file: file.clone(), line, column })
                .source(shown.clone())
                .label(wrong.expected)
                .helps(wrong.help)
        })?;
        let opened = opening.map(Opening::into_opened).unwrap_or_default();
        Ok(Document { file, text, shown, value, positions: OnceLock::new(), opened, sealed: false })
    }

    /// The values that Ansible Vault had sealed one by one.
    pub fn opened(&self) -> &[Secret] {
        &self.opened
    }

    /// Whether Ansible Vault had sealed the whole file.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The text as it may be shown: values of secret keys are covered.
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The whole document, to walk through with positions at hand.
    pub fn root(&self) -> Node<'_> {
        Node::root(self)
    }

    /// Where the value at `path` stands; of its nearest existing parent where there is none.
    pub fn locate(&self, path: &[PathStep<'_>]) -> Location {
        self.location(self.positions().of_value(path))
    }

    /// Where the key that `path` ends with stands; of the value for an index.
    pub fn locate_key(&self, path: &[PathStep<'_>]) -> Location {
        self.location(self.positions().of_key(path))
    }

    /// A complaint about the value at `path`.
    pub fn error_at(&self, path: &[PathStep<'_>], message: impl Into<String>) -> Diagnostic {
        self.complaint(message.into(), self.locate(path))
    }

    /// A complaint about the key that `path` ends with.
    pub fn error_at_key(&self, path: &[PathStep<'_>], message: impl Into<String>) -> Diagnostic {
        self.complaint(message.into(), self.locate_key(path))
    }

    /// Reads the document into a type. The error has the position and, for an unknown word, the nearest one.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        serde_yaml::from_str(&self.text).map_err(|error| {
            let (message, position) = parse::split_position(&error);
            let (line, column) = position.unwrap_or((1, 1));
            let (message, help) = explain_unknown(&message);
            self.complaint(message, Location { file: self.file.clone(), line, column }).helps(help)
        })
    }

    fn complaint(&self, message: String, at: Location) -> Diagnostic {
        let length = token_length(&self.shown, at.line, at.column);
        Diagnostic::error(message).at(at).source(self.shown.clone()).length(length)
    }

    fn location(&self, (line, column): positions::Position) -> Location {
        Location { file: self.file.clone(), line, column }
    }

    fn positions(&self) -> &Positions {
        self.positions.get_or_init(|| positions::index(&self.text))
    }
}

/// Writes a value as YAML. Texts that a reader of YAML 1.1 would take for booleans are quoted.
pub fn to_string(value: &impl Serialize) -> String {
    // Everything that can fail here is a type of ours with keys that are not scalars.
    let text = serde_yaml::to_string(value)
        .unwrap_or_else(|error| unreachable!("a value that YAML cannot hold: {error}"));
    quote::old_booleans(&text)
}

/// What serde says about an unknown word, in our terms and with the nearest known word.
fn explain_unknown(message: &str) -> (String, Option<String>) {
    for kind in ["field", "variant"] {
        let Some((before, rest)) = message.split_once(&format!("unknown {kind} `")) else { continue };
        let Some((word, rest)) = rest.split_once('`') else { continue };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let noun = if kind == "field" { "key" } else { "value" };
        let place = before.trim_end_matches(": ");
        let place = if place.is_empty() { String::new() } else { format!(" in `{place}`") };
        let help = did_you_mean(word, known.iter().copied())
            .or_else(|| Some(format!("known: {}", known.join(", "))));
        return (format!("unknown {noun} `{word}`{place}"), help);
    }
    (message.to_owned(), None)
}

/// How many characters of the line belong to the key or scalar that begins at a place.
fn token_length(text: &str, line: usize, column: usize) -> usize {
    let Some(line) = text.lines().nth(line.saturating_sub(1)) else { return 1 };
    let rest: Vec<char> = line.chars().skip(column.saturating_sub(1)).collect();
    let Some(first) = rest.first() else { return 1 };
    if let '"' | '\'' = first {
        let end = rest.iter().skip(1).position(|c| c == first);
        return end.map_or(rest.len(), |end| end + 2);
    }
    let templated = first == &'{' && rest.get(1) == Some(&'{');
    let in_flow = line.chars().take(column.saturating_sub(1)).any(|c| c == '{' || c == '[');
    let end = rest.iter().enumerate().skip(1).position(|(index, c)| match c {
        '#' => rest[index - 1].is_whitespace(),
        ':' => !templated && rest.get(index + 1).is_none_or(|next| next.is_whitespace()),
        ',' | '}' | ']' => in_flow && !templated,
        _ => false,
    });
    let token = end.map_or(&rest[..], |end| &rest[..end + 1]);
    token.iter().rposition(|c| !c.is_whitespace()).map_or(1, |last| last + 1)
}

fn read_text(path: &Path) -> Result<String, Diagnostic> {
    let bytes = std::fs::read(path).map_err(|error| {
        Diagnostic::error(format!("cannot read `{}`: {}", path.display(), plain_io_error(&error)))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Diagnostic::error(format!("`{}` is not UTF-8 text", path.display())).at(Location::new(path, line, 1))
    })
}

fn plain_io_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathStep::{Index, Key};

    const TEXT: &str = "all:\n  vars: {ttl: 5, loop_wait: 1}\n  children:\n    etcd:\n      hosts:\n        \
                        etcd-1: {ansible_host: 10.0.0.1}\n  list:\n    - a\n    - b: 1\n      c: two words # x\n";

    fn document(text: &str) -> Document {
        Document::parse("demo.yml", text).unwrap()
    }

    fn refused(text: &str) -> String {
        Document::parse("demo.yml", text).unwrap_err().render(false)
    }

    #[test]
    fn locates_values_and_keys() {
        let document = document(TEXT);
        let at = |path: &[PathStep<'_>]| {
            let location = document.locate(path);
            (location.line, location.column)
        };
        let key_at = |path: &[PathStep<'_>]| {
            let location = document.locate_key(path);
            (location.line, location.column)
        };
        assert_eq!(at(&[]), (1, 1));
        assert_eq!(at(&[Key("all")]), (2, 3));
        assert_eq!(key_at(&[Key("all"), Key("children"), Key("etcd")]), (4, 5));
        assert_eq!(at(&[Key("all"), Key("vars"), Key("loop_wait")]), (2, 29));
        assert_eq!(key_at(&[Key("all"), Key("vars"), Key("loop_wait")]), (2, 18));
        assert_eq!(at(&[Key("all"), Key("vars")]), (2, 9));
        assert_eq!(at(&[Key("all"), Key("list"), Index(1)]), (9, 7));
        assert_eq!(at(&[Key("all"), Key("list"), Index(1), Key("c")]), (10, 10));
        assert_eq!(at(&[Key("all"), Key("list"), Index(7)]), (8, 5), "the nearest parent that exists");
    }

    #[test]
    fn underlines_the_offending_token() {
        let document = document(TEXT);
        let path = [Key("all"), Key("list"), Index(1), Key("c")];
        insta::assert_snapshot!(document.error_at(&path, "wrong").label("expected a number").render(false), @r"
        error: wrong
          --> demo.yml:10:10
           |
        10 |       c: two words # x
           |          ^^^^^^^^^ expected a number
        ");
        insta::assert_snapshot!(document.error_at_key(&[Key("all"), Key("vars"), Key("ttl")], "wrong").render(false), @r"
        error: wrong
         --> demo.yml:2:10
          |
        2 |   vars: {ttl: 5, loop_wait: 1}
          |          ^^^
        ");
    }

    #[test]
    fn keeps_order_types_and_merges() {
        let document = document("b: &x {k: 1, l: yes}\na: {<<: *x, k: 0644}\n8008: ~\nf: 1.5\n");
        assert_eq!(
            serde_json::to_string(document.value()).unwrap(),
            r#"{"b":{"k":1,"l":"yes"},"a":{"k":"0644","l":"yes"},"8008":null,"f":1.5}"#
        );
        assert_eq!(Document::parse("empty.yml", "# nothing\n").unwrap().value(), &Value::Null);
    }

    #[test]
    fn refuses_what_would_be_read_wrongly() {
        insta::assert_snapshot!(refused("hosts:\n  pg1: {}\n  pg1: {}\n"), @r"
        error: duplicate key `pg1`
         --> demo.yml:3:3
          |
        3 |   pg1: {}
          |   ^^^ this key was already given above
          |
          = help: remove one of the two
        ");
        insta::assert_snapshot!(refused("a: 1\n---\nb: 2\n"), @r"
        error: more than one YAML document
         --> demo.yml:2:1
          |
        2 | ---
          | ^^^ expected one document in a file
        ");
        insta::assert_snapshot!(refused("p: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"), @r"
        error: what Ansible Vault has sealed is opened in inventories and their variables alone
         --> demo.yml:1:4
          |
        1 | p: !vault |
          |    ^^^^^^^^
        ");
        insta::assert_snapshot!(refused("path: {{ dir }}/x\n"), @r#"
        error: a value that begins with `{{` must be quoted
         --> demo.yml:1:7
          |
        1 | path: {{ dir }}/x
          |       ^^^^^^^^^^^
          |
          = help: write it as `path: "{{ dir }}/x"`
        "#);
        insta::assert_snapshot!(refused("a:\n  - b\n c: 1\n"), @r"
        error: not valid YAML: did not find expected key
         --> demo.yml:3:2
          |
        3 |  c: 1
          |  ^
          |
          = help: compare its indentation with the lines above, and quote texts that contain `: ` or ` #`
        ");
        insta::assert_snapshot!(refused("a:\n\tb: 1\n"), @r"
        error: not valid YAML: found character that cannot start any token
         --> demo.yml:2:1
          |
        2 |     b: 1
          | ^^^^^
          |
          = help: indent with spaces; YAML does not allow tabs
        ");
        insta::assert_snapshot!(refused("a: *b\n"), @r"
        error: not valid YAML: unknown anchor
         --> demo.yml:1:4
          |
        1 | a: *b
          |    ^^
        ");
    }

    #[test]
    fn covers_secrets_in_what_it_shows() {
        let wrong = refused("superuser_password: hunter2\nsuperuser_password: hunter3\n");
        assert!(!wrong.contains("hunter"), "{wrong}");
        assert!(wrong.contains("superuser_password: ***"), "{wrong}");
    }

    #[test]
    fn opens_what_is_sealed_and_shows_none_of_it() {
        let open: Open<'_> = &|sealed: &str| match sealed.trim() {
            "$ANSIBLE_VAULT;x" => Ok(Secret::new("hunter2")),
            "$ANSIBLE_VAULT;map" => Ok(Secret::new("ttl: hunter3\nvip: [a, !vault \"$ANSIBLE_VAULT;x\"]\n")),
            _ => Err(Diagnostic::error("it is closed").help("find the key")),
        };
        let parsed = |text: &str| Document::parse_sealed("demo.yml", text, open);
        let document =
            parsed("a: {b: !vault \"$ANSIBLE_VAULT;x\"}\nc: !vault |\n  $ANSIBLE_VAULT;x\n").unwrap();
        assert_eq!(document.value(), &serde_json::json!({"a": {"b": "hunter2"}, "c": "hunter2"}));
        assert_eq!((document.opened().len(), document.is_sealed()), (2, false));
        let path = [Key("c")];
        assert_eq!(document.locate(&path).line, 2);

        let document = parsed("$ANSIBLE_VAULT;map").unwrap();
        assert_eq!(document.value(), &serde_json::json!({"ttl": "hunter3", "vip": ["a", "hunter2"]}));
        assert!(document.is_sealed());
        insta::assert_snapshot!(document.error_at(&[Key("ttl")], "wrong").render(false), @r"
        error: wrong
         --> demo.yml:1:6
          |
        1 | ttl: ***
          |      ^^^
        ");
        insta::assert_snapshot!(parsed("a: 1\nb: !vault |\n  $ANSIBLE_VAULT;y\n").unwrap_err().render(false), @r"
        error: it is closed
         --> demo.yml:2:4
          |
        2 | b: !vault |
          |    ^^^^^^^^
          |
          = help: find the key
        ");
        assert_eq!(parsed("$ANSIBLE_VAULT;y").unwrap_err().message, "it is closed");
    }

    #[test]
    fn typed_reading_names_the_place_and_the_nearest_word() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Settings {
            ttl: u32,
            loop_wait: u32,
        }
        let wrong = |text: &str| document(text).deserialize::<Settings>().unwrap_err().render(false);
        insta::assert_snapshot!(wrong("ttl: 1\nloop_wiat: 2\n"), @r"
        error: unknown key `loop_wiat`
         --> demo.yml:2:1
          |
        2 | loop_wiat: 2
          | ^^^^^^^^^
          |
          = help: did you mean `loop_wait`?
        ");
        insta::assert_snapshot!(wrong("ttl: fast\nloop_wait: 2\n"), @r#"
        error: ttl: invalid type: string "fast", expected u32
         --> demo.yml:1:6
          |
        1 | ttl: fast
          |      ^^^^
        "#);
    }

    #[test]
    fn quotes_what_older_readers_take_for_booleans_and_numbers() {
        let text = to_string(&serde_json::json!({"a": "yes", "b": "0644", "c": "on", "d": true, "e": "1"}));
        insta::assert_snapshot!(text, @r"
        a: 'yes'
        b: '0644'
        c: 'on'
        d: true
        e: '1'
        ");
    }
}
