//! Ansible's spelling of templates, turned into Tera's.
//!
//! People bring Jinja2 habits: `default('x')` with a positional argument, `{% if %}` lines that leave no
//! blank line behind, `map.items()`. Tera has the same things under stricter spelling. This file rewrites
//! one into the other by small insertions and removals, remembers where each byte came from so that an
//! error still points into the author's text, and lists the variables that a text uses. It evaluates
//! nothing and knows no variable's value.

use super::lexer::{self, Piece, Token, TokenKind};
use std::{collections::BTreeSet, ops::Range};

/// A text in Tera's spelling, and what is known about the original.
#[derive(Debug)]
pub(super) struct Translation {
    pub text: String,
    /// `(offset in the translation, offset in the original)`, ascending; bytes in between run in step.
    segments: Vec<(usize, usize)>,
    /// Variables that the text reads, in order of appearance.
    pub uses: Vec<Use>,
    /// Templates that the text includes or extends, where the name is a literal.
    pub includes: Vec<(String, Range<usize>)>,
    /// Where the `{{ }}` and `{% %}` are in the original.
    blocks: Vec<Range<usize>>,
    /// The whole text is one `{{ expression }}`: the expression's place in the original.
    pub lone: Option<Range<usize>>,
}

/// A variable read somewhere in a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Use {
    pub name: String,
    /// In the original text.
    pub at: Range<usize>,
    /// Read in a condition that would silently take an undefined variable for false.
    pub in_condition: bool,
    /// `is defined`, `default` and the like: being undefined is expected here.
    pub guarded: bool,
}

impl Translation {
    /// The offset in the original of an offset in the translation.
    pub fn original(&self, offset: usize) -> usize {
        let index = self.segments.partition_point(|(out, _)| *out <= offset).saturating_sub(1);
        let (out, source) = self.segments.get(index).copied().unwrap_or((0, 0));
        let room = self.segments.get(index + 1).map_or(usize::MAX, |(_, next)| next.saturating_sub(source));
        source + (offset - out.min(offset)).min(room)
    }

    /// The names of the variables that the text reads.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.uses.iter().map(|used| used.name.as_str())
    }

    /// Whether two offsets in the original lie in the same `{{ }}` or `{% %}`.
    pub fn same_block(&self, one: usize, other: usize) -> bool {
        self.blocks.iter().any(|block| block.contains(&one) && block.contains(&other))
    }
}

/// What a rewritten filter, test, function or method takes without a name, in order.
const POSITIONAL: &[(&str, &[&str])] = &[
    ("default", &["value", "boolean"]),
    ("d", &["value", "boolean"]),
    ("join", &["sep"]),
    ("split", &["pat"]),
    ("replace", &["from", "to"]),
    ("round", &["precision", "method"]),
    ("indent", &["width", "first"]),
    ("trim", &["pat"]),
    ("strip", &["pat"]),
    ("int", &["default", "base"]),
    ("float", &["default"]),
    ("get", &["key", "default"]),
    ("truncate", &["length"]),
    ("nth", &["n"]),
    ("group_by", &["attribute"]),
    ("sort", &["attribute"]),
    ("required", &["message"]),
    ("mandatory", &["message"]),
    ("ternary", &["yes", "no", "none"]),
    ("map", &["filter", "container", "key"]),
    ("select", &["test", "value"]),
    ("reject", &["test", "value"]),
    ("selectattr", &["attribute", "test", "value"]),
    ("rejectattr", &["attribute", "test", "value"]),
    ("combine", &["other"]),
    ("union", &["other"]),
    ("difference", &["other"]),
    ("intersect", &["other"]),
    ("regex_replace", &["pattern", "replacement"]),
    ("regex_search", &["pattern"]),
    ("ipaddr", &["query"]),
    ("to_json", &["indent"]),
    ("to_yaml", &["indent"]),
    ("startswith", &["pat"]),
    ("endswith", &["pat"]),
    ("starting_with", &["pat"]),
    ("ending_with", &["pat"]),
    ("containing", &["pat"]),
    ("contains", &["pat"]),
    ("divisible_by", &["divisor"]),
    ("divisibleby", &["divisor"]),
    ("version", &["version", "operator"]),
    ("match", &["pattern"]),
    ("search", &["pattern"]),
    ("subset", &["of"]),
    ("superset", &["of"]),
    ("throw", &["message"]),
];

const KEYWORDS: &[&str] = &[
    "and",
    "or",
    "not",
    "is",
    "in",
    "if",
    "else",
    "elif",
    "true",
    "True",
    "false",
    "False",
    "none",
    "None",
    "null",
    "loop",
    "self",
    "for",
    "recursive",
    "with",
    "ignore",
    "missing",
];

struct Edit {
    at: usize,
    remove: usize,
    insert: String,
}

/// Rewrites `source`. Never fails: what is not understood is left for Tera to complain about.
pub(super) fn translate(source: &str) -> Translation {
    let mut edits = Vec::new();
    let mut reading = Reading::default();
    let pieces = lexer::pieces(source);
    let mut lone = None;
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(_) => {}
            Piece::Comment(range) => trim_block(source, range.end, &mut edits),
            Piece::Expression { range, inner, tokens } => {
                let alone = pieces.iter().enumerate().all(|(other, piece)| {
                    other == index
                        || matches!(piece, Piece::Text(text) if source[text.clone()].trim().is_empty())
                });
                let closed = inner.end < range.end;
                if alone && closed {
                    lone = Some(inner.clone());
                }
                rewrite(source, tokens, &mut edits);
                reading.expression(source, tokens, false);
            }
            Piece::Tag { range, tokens, .. } => {
                rewrite(source, tokens, &mut edits);
                reading.tag(source, tokens);
                trim_block(source, range.end, &mut edits);
            }
        }
    }
    let bound = reading.bound;
    let guarded: BTreeSet<String> =
        reading.uses.iter().filter(|used| used.guarded).map(|used| used.name.clone()).collect();
    let uses = reading
        .uses
        .into_iter()
        .filter(|used| !bound.contains(&used.name))
        .map(|used| Use { guarded: used.guarded || guarded.contains(&used.name), ..used })
        .collect();
    let (text, segments) = apply(source, edits);
    let blocks = pieces.iter().filter_map(|piece| match piece {
        Piece::Expression { range, .. } | Piece::Tag { range, .. } => Some(range.clone()),
        Piece::Text(_) | Piece::Comment(_) => None,
    });
    Translation { text, segments, uses, includes: reading.includes, blocks: blocks.collect(), lone }
}

/// Ansible removes the first newline after a block tag and after a comment.
fn trim_block(source: &str, end: usize, edits: &mut Vec<Edit>) {
    let rest = &source[end..];
    let remove = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
    // `-%}` and `-#}` take all white space away by themselves.
    if remove > 0 && source.as_bytes().get(end.wrapping_sub(3)) != Some(&b'-') {
        edits.push(Edit { at: end, remove, insert: String::new() });
    }
}

fn apply(source: &str, mut edits: Vec<Edit>) -> (String, Vec<(usize, usize)>) {
    edits.sort_by_key(|edit| edit.at);
    let mut text = String::with_capacity(source.len() + 32);
    let mut segments = vec![(0, 0)];
    let mut done = 0;
    for edit in edits {
        text.push_str(&source[done..edit.at]);
        if !edit.insert.is_empty() {
            segments.push((text.len(), edit.at));
            text.push_str(&edit.insert);
        }
        done = edit.at + edit.remove;
        segments.push((text.len(), done));
    }
    text.push_str(&source[done..]);
    (text, segments)
}

/// Names positional arguments and turns `value.method(…)` into `value | method(…)`.
fn rewrite(source: &str, tokens: &[Token], edits: &mut Vec<Edit>) {
    for index in 0..tokens.len() {
        let name = &tokens[index];
        if name.kind != TokenKind::Ident || !is(source, tokens.get(index + 1), "(") {
            continue;
        }
        let word = &source[name.range.clone()];
        let before = index.checked_sub(1).and_then(|before| tokens.get(before));
        let method = is(source, before, ".");
        if method && let Some(dot) = before {
            edits.push(Edit { at: dot.range.start, remove: dot.range.len(), insert: " | ".to_owned() });
        }
        if word == "range" && !method {
            let names: &[&str] = match argument_starts(source, tokens, index + 1).len() {
                1 => &["end"],
                _ => &["start", "end", "step_by"],
            };
            name_arguments(source, tokens, index + 1, names, edits);
        } else {
            name_arguments(source, tokens, index + 1, positional(word), edits);
        }
    }
}

/// What a filter, test or method takes without a name, in order.
pub(super) fn positional(word: &str) -> &'static [&'static str] {
    POSITIONAL.iter().find(|(known, _)| *known == word).map_or(&[], |(_, names)| names)
}

fn name_arguments(source: &str, tokens: &[Token], open: usize, names: &[&str], edits: &mut Vec<Edit>) {
    for (position, start) in argument_starts(source, tokens, open).into_iter().enumerate() {
        let named = tokens[start].kind == TokenKind::Ident && is(source, tokens.get(start + 1), "=");
        if let Some(name) = names.get(position).filter(|_| !named) {
            edits.push(Edit { at: tokens[start].range.start, remove: 0, insert: format!("{name}=") });
        }
    }
}

/// The first token of each argument of the call whose `(` is at `open`.
fn argument_starts(source: &str, tokens: &[Token], open: usize) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut depth = 0_i32;
    let mut expecting = false;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        let text = &source[token.range.clone()];
        let punctuation = token.kind == TokenKind::Punctuation;
        if punctuation && matches!(text, ")" | "]" | "}") {
            depth -= 1;
            if depth == 0 {
                break;
            }
        } else if expecting {
            starts.push(index);
            expecting = false;
        }
        if punctuation && matches!(text, "(" | "[" | "{") {
            depth += 1;
            expecting = index == open;
        } else if punctuation && text == "," && depth == 1 {
            expecting = true;
        }
    }
    starts
}

fn is(source: &str, token: Option<&Token>, text: &str) -> bool {
    token.is_some_and(|token| token.kind != TokenKind::String && &source[token.range.clone()] == text)
}

/// Collects what a text reads and binds.
#[derive(Default)]
struct Reading {
    uses: Vec<Use>,
    bound: BTreeSet<String>,
    includes: Vec<(String, Range<usize>)>,
}

impl Reading {
    fn tag(&mut self, source: &str, tokens: &[Token]) {
        let Some(first) = tokens.first() else { return };
        let rest = &tokens[1..];
        match &source[first.range.clone()] {
            "if" | "elif" => self.expression(source, rest, true),
            "for" => {
                let split = rest.iter().position(|token| is(source, Some(token), "in")).unwrap_or(rest.len());
                self.bind(source, &rest[..split]);
                self.expression(source, &rest[split..], false);
            }
            "set" | "set_global" => {
                let split = rest.iter().position(|token| is(source, Some(token), "=")).unwrap_or(rest.len());
                self.bind(source, &rest[..split]);
                self.expression(source, &rest[split..], false);
            }
            "include" | "extends" => {
                let name =
                    rest.first().filter(|token| token.kind == TokenKind::String && token.range.len() > 1);
                if let Some(name) = name {
                    let inner = name.range.start + 1..name.range.end - 1;
                    self.includes.push((source[inner.clone()].to_owned(), inner));
                }
            }
            // A component's body sees its arguments alone.
            "component" => self.bind(source, rest),
            _ => {}
        }
    }

    fn bind(&mut self, source: &str, tokens: &[Token]) {
        for token in tokens.iter().filter(|token| token.kind == TokenKind::Ident) {
            self.bound.insert(source[token.range.clone()].to_owned());
        }
    }

    fn expression(&mut self, source: &str, tokens: &[Token], in_condition: bool) {
        for (index, token) in tokens.iter().enumerate() {
            if token.kind != TokenKind::Ident {
                continue;
            }
            let word = &source[token.range.clone()];
            let before = index.checked_sub(1).and_then(|before| tokens.get(before));
            let after = tokens.get(index + 1);
            // The variable of a list comprehension: `[x for x in xs]`.
            if word == "for" {
                let end = tokens[index..].iter().position(|token| is(source, Some(token), "in"));
                self.bind(source, &tokens[index + 1..index + end.unwrap_or(1)]);
            }
            let attribute = is(source, before, ".") || is(source, before, "?.");
            let filter = is(source, before, "|");
            let test = is(source, before, "is")
                || (is(source, before, "not") && index >= 2 && is(source, tokens.get(index - 2), "is"));
            let called = is(source, after, "(");
            let named_argument = is(source, after, "=");
            if attribute || filter || test || called || named_argument || KEYWORDS.contains(&word) {
                continue;
            }
            self.uses.push(Use {
                name: word.to_owned(),
                at: token.range.clone(),
                in_condition,
                guarded: guarded(source, tokens, index),
            });
        }
    }
}

/// Whether the variable at `index`, with its attributes, is asked for with `is defined`, `default`, `?.`.
fn guarded(source: &str, tokens: &[Token], index: usize) -> bool {
    let mut next = index + 1;
    loop {
        if is(source, tokens.get(next), "?.") || is(source, tokens.get(next), "?[") {
            return true;
        }
        if is(source, tokens.get(next), ".") {
            next += 2;
        } else if is(source, tokens.get(next), "[") {
            let mut depth = 0_i32;
            while let Some(token) = tokens.get(next) {
                depth += i32::from(is(source, Some(token), "[")) - i32::from(is(source, Some(token), "]"));
                next += 1;
                if depth == 0 {
                    break;
                }
            }
        } else {
            break;
        }
    }
    let word = |at: usize| tokens.get(at).map(|token| &source[token.range.clone()]);
    match word(next) {
        Some("is") => {
            let test = if word(next + 1) == Some("not") { next + 2 } else { next + 1 };
            matches!(word(test), Some("defined" | "undefined"))
        }
        Some("|") => matches!(word(next + 1), Some("default" | "d" | "required" | "mandatory")),
        Some("or") => false,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        translate(source).text
    }

    #[test]
    fn positional_arguments_get_names() {
        assert_eq!(text("{{ a | default('x') }}"), "{{ a | default(value='x') }}");
        assert_eq!(
            text("{{ a | replace('x', 'y') | join(', ') }}"),
            "{{ a | replace(from='x', to='y') | join(sep=', ') }}"
        );
        assert_eq!(
            text("{{ a | default(b | default([1, 2])) }}"),
            "{{ a | default(value=b | default(value=[1, 2])) }}"
        );
        assert_eq!(text("{{ a | default(value=3) }}"), "{{ a | default(value=3) }}");
        assert_eq!(
            text("{% for i in range(1, 4) %}{% endfor %}"),
            "{% for i in range(start=1, end=4) %}{% endfor %}"
        );
        assert_eq!(text("{{ range(4) }}"), "{{ range(end=4) }}");
    }

    #[test]
    fn methods_become_filters() {
        assert_eq!(text("{{ a.b.get('k', 1) }}"), "{{ a.b | get(key='k', default=1) }}");
        assert_eq!(text("{{ a.lower() }}"), "{{ a | lower() }}");
    }

    #[test]
    fn text_outside_of_blocks_is_left_alone() {
        let source = "a.b('c') | default('d') {# x.y('z') #}{% raw %}{{ a | default('x') }}{% endraw %}";
        assert_eq!(text(source), source);
    }

    #[test]
    fn the_newline_after_a_block_goes() {
        assert_eq!(text("{% if a %}\nx\n{% endif %}\ny\n"), "{% if a %}x\n{% endif %}y\n");
        assert_eq!(text("{# note #}\nx\n"), "{# note #}x\n");
        assert_eq!(text("{{ a }}\nx"), "{{ a }}\nx");
    }

    #[test]
    fn offsets_lead_back_to_the_original() {
        let source = "{% if a %}\n{{ b | default('x') | nope }}\n{% endif %}\n";
        let translated = translate(source);
        for word in ["nope", "'x'", "endif"] {
            assert_eq!(
                translated.original(translated.text.find(word).unwrap()),
                source.find(word).unwrap(),
                "{word}"
            );
        }
    }

    fn uses(source: &str) -> Vec<String> {
        translate(source)
            .uses
            .iter()
            .map(|used| {
                let mark = if used.guarded { "?" } else { "" };
                let condition = if used.in_condition { "!" } else { "" };
                format!("{}{mark}{condition}", used.name)
            })
            .collect()
    }

    #[test]
    fn variables_are_found() {
        assert_eq!(uses("{{ a.b[c] | f(x=d) }} {{ g(1) }} {{ 'e' }}"), ["a", "c", "d"]);
        assert_eq!(uses("{% for k, v in m %}{{ k }}{{ v }}{{ loop.index }}{% endfor %}"), ["m"]);
        assert_eq!(uses("{% if a is defined and a.b == 1 and c %}{% endif %}"), ["a?!", "a?!", "c!"]);
        assert_eq!(uses("{{ a.b | default(c) }}"), ["a?", "c"]);
        assert_eq!(uses("{% set x = y %}{{ x }}{{ [i.a for i in z] }}"), ["y", "z"]);
        assert_eq!(uses("{{ a is not mapping }}"), ["a"]);
    }

    #[test]
    fn a_lone_expression_is_noticed() {
        let lone = |source: &str| translate(source).lone.map(|range| source[range].to_owned());
        assert_eq!(lone("{{ a }}").as_deref(), Some(" a "));
        assert_eq!(lone("  {{- {'k': '}}'} -}} ").as_deref(), Some(" {'k': '}}'} "));
        assert_eq!(lone("{{ a }}b"), None);
        assert_eq!(lone("{{ a }}{{ b }}"), None);
        assert_eq!(lone("{% if a %}{% endif %}{{ b }}"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives(source in "[a-z{}%#'\"()|.,=\\n -]{0,60}") {
            let translated = translate(&source);
            for offset in 0..=translated.text.len() {
                proptest::prop_assert!(translated.original(offset) <= source.len());
            }
        }
    }
}
