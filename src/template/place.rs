//! From an offset in a text to the place in the file where the author wrote it, and from Tera's errors to
//! complaints with that place.

use super::{
    dialect::{Translation, Use},
    filters,
};
use crate::diagnostic::{Diagnostic, Location, did_you_mean};
use std::{ops::Range, sync::Arc};
use tera::ErrorKind;

/// Where a text that is rendered comes from.
pub(super) struct Origin<'a> {
    /// The text as its author wrote it.
    pub text: &'a str,
    /// Where the text begins. For a value in a YAML file: where the value begins, quotes included.
    pub at: &'a Location,
    /// The whole file, where it could be had.
    pub file: Option<Arc<str>>,
}

impl Origin<'_> {
    /// A complaint about a part of the text.
    pub fn complain(&self, message: impl Into<String>, part: Range<usize>) -> Diagnostic {
        let (at, found) = self.locate(part.start);
        let line_end = self.text[part.start.min(self.text.len())..]
            .find('\n')
            .map_or(self.text.len(), |end| part.start + end);
        let length = self.text.get(part.start..part.end.min(line_end)).map_or(1, |part| part.chars().count());
        let diagnostic = Diagnostic::error(message).at(at);
        match (&self.file, found) {
            (Some(file), true) => diagnostic.source(file.clone()).length(length.max(1)),
            (Some(file), false) => diagnostic.source(file.clone()),
            (None, _) => diagnostic,
        }
    }

    /// The place of an offset, and whether it is exact. A YAML value can be quoted, folded or indented; its
    /// lines are looked for from its beginning on.
    fn locate(&self, offset: usize) -> (Location, bool) {
        let before = &self.text[..floor(self.text, offset)];
        let number = before.matches('\n').count();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        let column = before[start..].chars().count();
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        let Some(file) = &self.file else {
            return (self.at.clone(), false);
        };
        let wanted = line.trim();
        for (index, candidate) in file.lines().enumerate().skip(self.at.line - 1).skip(number).take(FAR) {
            let skip = if index + 1 == self.at.line { self.at.column - 1 } else { 0 };
            let skipped = candidate.char_indices().nth(skip).map_or(candidate.len(), |(offset, _)| offset);
            if let Some(found) = candidate[skipped..].find(wanted) {
                let characters = candidate[..skipped + found].chars().count();
                let column = characters + column.saturating_sub(indent) + 1;
                return (Location { file: self.at.file.clone(), line: index + 1, column }, true);
            }
        }
        (self.at.clone(), false)
    }
}

/// How many lines below its task a text may stand.
const FAR: usize = 400;

fn floor(text: &str, mut offset: usize) -> usize {
    offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// What Tera said, in our words; `part` is in the author's text.
pub(super) struct Complaint {
    pub message: String,
    pub label: String,
    pub help: Vec<String>,
    pub part: Range<usize>,
    /// The template that is complained about, when it isn't the one that was asked for.
    pub template: String,
}

/// Reads one of Tera's errors. `known` are the variables that exist.
pub(super) fn explain<'k>(
    error: &tera::Error,
    text_of: impl Fn(&str) -> &'k str,
    translation_of: impl Fn(&str) -> Option<&'k Translation>,
    known: &[&str],
) -> Complaint {
    // What cannot be compiled is wrong whatever the variables are.
    let rendering = matches!(error.kind(), ErrorKind::RenderingError(_));
    let (message, template, span) = match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
            (report.message().to_owned(), report.filename().to_owned(), Some(report.span().range.clone()))
        }
        other => match parse_report(&other.to_string()) {
            Some((message, template, line, column)) => {
                let range = translation_of(&template).map(|translation| {
                    let start = offset_of(&translation.text, line, column);
                    start..start + token_length(&translation.text[start..])
                });
                (message, template, range)
            }
            None => (other.to_string(), String::new(), None),
        },
    };
    let part = match (translation_of(&template), span) {
        (Some(translation), Some(span)) => {
            let start = translation.original(span.start);
            let end = translation.original(span.end.max(span.start)).max(start + 1);
            start..end
        }
        _ => 0..1,
    };
    let text = text_of(&template);
    // A filter that was handed an undefined value knows no names: find the variable that is meant.
    let undefined = translation_of(&template).filter(|_| rendering).and_then(|translation| {
        let block = block_around(translation, &part);
        block.into_iter().find(|used| !used.guarded && !known.contains(&used.name.as_str())).cloned()
    });
    if let Some(used) = undefined {
        return Complaint { template, ..undefined_variable(&used, known) };
    }
    let (message, label, help) = reword(&message, text.get(part.clone()).unwrap_or_default(), known);
    Complaint { message, label, help, part, template }
}

/// The variables on the same lines as `part`.
fn block_around<'t>(translation: &'t Translation, part: &Range<usize>) -> Vec<&'t Use> {
    translation
        .uses
        .iter()
        .filter(|used| {
            used.at.start < part.end.saturating_add(200)
                && used.at.end + 200 > part.start
                && translation.same_block(used.at.start, part.start)
        })
        .collect()
}

pub(super) fn undefined_variable(used: &Use, known: &[&str]) -> Complaint {
    Complaint {
        message: format!("undefined variable `{}`", used.name),
        label: "no variable of this name is set".to_owned(),
        help: did_you_mean(&used.name, known.iter().copied()).into_iter().collect(),
        part: used.at.clone(),
        template: String::new(),
    }
}

/// Tera's sentence in our words. `part` is the text that it is about.
fn reword(message: &str, part: &str, known: &[&str]) -> (String, String, Vec<String>) {
    let quoted = |prefix: &str| {
        let rest = message.strip_prefix(prefix)?.strip_prefix('`')?;
        rest.split_once('`').map(|(name, rest)| (name.to_owned(), rest.to_owned()))
    };
    if let Some((name, _)) = quoted("Variable ") {
        let help = did_you_mean(&name, known.iter().copied()).into_iter().collect();
        return (format!("undefined variable `{name}`"), "no variable of this name is set".to_owned(), help);
    }
    if let Some((name, rest)) = quoted("Field ") {
        let fields = rest.split_once("Available fields: ").map_or("", |(_, fields)| fields);
        let fields: Vec<&str> = fields.split(", ").filter(|field| !field.is_empty()).collect();
        let help = did_you_mean(&name, fields.iter().copied()).or_else(|| {
            (!fields.is_empty() && fields.len() <= 12).then(|| format!("there are: {}", fields.join(", ")))
        });
        return (
            format!("undefined attribute `{name}`"),
            "the value has no such attribute".to_owned(),
            help.into_iter().collect(),
        );
    }
    if let Some((name, _)) = quoted("Unknown filter ") {
        let help = did_you_mean(&name, filters::FILTERS.iter().copied()).into_iter().collect();
        return (format!("unknown filter `{name}`"), "no filter has this name".to_owned(), help);
    }
    if let Some((name, _)) = quoted("Unknown test ") {
        let help = did_you_mean(&name, filters::TESTS.iter().copied()).into_iter().collect();
        return (format!("unknown test `{name}`"), "no test has this name".to_owned(), help);
    }
    if let Some((name, _)) = quoted("Unknown function ") {
        let help =
            vec!["functions are: range, throw; most of what Ansible looks up is a filter here".to_owned()];
        return (format!("unknown function `{name}`"), "no function has this name".to_owned(), help);
    }
    if let Some((name, _)) = quoted("Unknown template ") {
        return (format!("template `{name}` does not exist"), "included here".to_owned(), Vec::new());
    }
    let plain = |message: String, label: &str, help: &str| (message, label.to_owned(), vec![help.to_owned()]);
    if message.starts_with("Tried to render a variable that is undefined") {
        return (
            format!("undefined attribute `{part}`"),
            "the value has no such attribute".to_owned(),
            Vec::new(),
        );
    }
    if message.contains("not possible on type `undefined`") {
        let label = "a variable or an attribute in it is not set";
        return (format!("`{part}` is undefined"), label.to_owned(), Vec::new());
    }
    if message.starts_with("Unexpected end of input") {
        return plain(
            "the template ends too early".to_owned(),
            "something is open here",
            "a `{{`, or a tag such as `{% if %}` or `{% for %}`, is not closed",
        );
    }
    if message.starts_with("Found `}}` but expected") || message.starts_with("Found `%}` but expected") {
        return (
            "the expression ends too early".to_owned(),
            "something is missing behind this".to_owned(),
            Vec::new(),
        );
    }
    if message.starts_with("Unknown tag") {
        return plain(
            format!("unexpected tag `{part}`"),
            "no such tag, or not here",
            "each tag is closed by its own: `{% for %}` by `{% endfor %}`, `{% if %}` by `{% endif %}`",
        );
    }
    if message.contains("but expected identifier") {
        let help =
            "arguments of functions, and of filters that Ansible doesn't have, are written `name=value`";
        return plain("an argument without a name".to_owned(), "expected `name=value`", help);
    }
    let mut text = message.trim_end_matches('.').to_owned();
    if let Some(first) = text.get(..1) {
        let lower = first.to_lowercase();
        text.replace_range(..1, &lower);
    }
    (text, String::new(), Vec::new())
}

/// `error: MESSAGE` / `--> NAME:LINE:COLUMN`, as Tera prints what it has no structured form for.
fn parse_report(report: &str) -> Option<(String, String, usize, usize)> {
    let mut lines = report.lines();
    let message = lines.next()?.strip_prefix("error: ")?.to_owned();
    let place = lines.next()?.trim_start().strip_prefix("--> ")?;
    let mut parts = place.rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    Some((message, parts.next()?.to_owned(), line, column))
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = &text[start.min(text.len())..];
    start.min(text.len())
        + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(offset, _)| offset)
}

fn token_length(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count().max(1)
}
