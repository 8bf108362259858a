//! Cuts a template into text, comments, expressions and tags, and those into tokens.
//!
//! Just enough of a lexer for [`super::dialect`]; Tera does its own and decides what is valid.

use std::ops::Range;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(Range<usize>),
    Comment(Range<usize>),
    /// `{{ … }}`; `inner` is what lies between the braces (and their dashes).
    Expression {
        range: Range<usize>,
        inner: Range<usize>,
        tokens: Vec<Token>,
    },
    /// `{% … %}`
    Tag {
        range: Range<usize>,
        tokens: Vec<Token>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Ident,
    Number,
    String,
    Punctuation,
}

/// The pieces of `source`, in order. What is never closed runs to the end.
pub(super) fn pieces(source: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut text_from = 0;
    while let Some(open) = next_marker(source, at) {
        if open > text_from {
            pieces.push(Piece::Text(text_from..open));
        }
        at = match &source[open..open + 2] {
            "{#" => {
                let end = source[open + 2..].find("#}").map_or(source.len(), |found| open + 2 + found + 2);
                pieces.push(Piece::Comment(open..end));
                end
            }
            "{{" => {
                let (tokens, inner_end, end) = tokens(source, open + 2, "}}");
                let start = open + 2 + usize::from(source[open + 2..].starts_with('-'));
                let inner = start..inner_end.max(start);
                pieces.push(Piece::Expression { range: open..end, inner, tokens });
                end
            }
            _ => {
                let (tokens, _, end) = tokens(source, open + 2, "%}");
                let raw = tokens.first().is_some_and(|token| &source[token.range.clone()] == "raw");
                let end = if raw { end_of_raw(source, end) } else { end };
                let tokens = if raw { Vec::new() } else { tokens };
                pieces.push(Piece::Tag { range: open..end, tokens });
                end
            }
        };
        text_from = at;
    }
    if text_from < source.len() {
        pieces.push(Piece::Text(text_from..source.len()));
    }
    pieces
}

fn next_marker(source: &str, from: usize) -> Option<usize> {
    source.as_bytes()[from..]
        .windows(2)
        .position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
        .map(|found| from + found)
}

/// The end of the `{% endraw %}` that closes a raw block whose opening tag ends at `from`.
fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(found) = source[at..].find("{%") {
        let open = at + found;
        let (tokens, _, end) = tokens(source, open + 2, "%}");
        if tokens.first().is_some_and(|token| &source[token.range.clone()] == "endraw") {
            return end;
        }
        at = open + 2;
    }
    source.len()
}

/// Tokens up to `close`; where the inside ends (before a dash); where the block ends.
fn tokens(source: &str, from: usize, close: &str) -> (Vec<Token>, usize, usize) {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    // `{{ {'a': 1}}}`: braces of the expression are counted so that its own do not close the block.
    let mut braces = 0_usize;
    let mut at = from + usize::from(source[from..].starts_with('-'));
    while at < bytes.len() {
        let rest = &source[at..];
        if braces == 0 {
            if rest.starts_with(close) {
                return (found, at, at + 2);
            }
            if rest.starts_with('-') && rest[1..].starts_with(close) {
                return (found, at, at + 3);
            }
        }
        let first = bytes[at];
        let (kind, length) = match first {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'\'' | b'"' | b'`' => (TokenKind::String, string_length(&bytes[at..])),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                (TokenKind::Ident, length.count())
            }
            b'0'..=b'9' => (TokenKind::Number, number_length(rest)),
            _ => {
                braces = match first {
                    b'{' => braces + 1,
                    b'}' => braces.saturating_sub(1),
                    _ => braces,
                };
                let two = ["?.", "?[", "==", "!=", ">=", "<=", "//", "**"];
                let width = rest.chars().next().map_or(1, char::len_utf8);
                (
                    TokenKind::Punctuation,
                    if two.iter().any(|pair| rest.starts_with(pair)) { 2 } else { width },
                )
            }
        };
        found.push(Token { kind, range: at..at + length });
        at += length;
    }
    (found, bytes.len(), bytes.len())
}

fn string_length(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (index, byte) in bytes.iter().enumerate().skip(1) {
        match (escaped, *byte) {
            (true, _) => escaped = false,
            (false, b'\\') => escaped = true,
            (false, byte) if byte == bytes[0] => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

fn number_length(rest: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(rest);
    match rest[whole..].strip_prefix('.').map(digits) {
        Some(fraction) if fraction > 0 => whole + 1 + fraction,
        _ => whole,
    }
}
