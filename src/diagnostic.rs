//! What is wrong with a file, where, and what was meant; rendered with the source line.
//!
//! Owns the shape and the look of every complaint about input. Never decides what is wrong, never prints.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl Location {
    pub fn new(file: impl Into<PathBuf>, line: usize, column: usize) -> Self {
        Self { file: file.into(), line, column }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One complaint. With a location and a source it is shown with the line that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    pub at: Option<Location>,
    /// The whole text of the file that `at` points into.
    pub source: Option<Arc<str>>,
    /// Characters to underline from `at` on; never past the end of the line.
    pub length: usize,
    /// What was expected, shown beside the underlined text.
    pub label: String,
    /// What to do about it, each a line of its own.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            at: None,
            source: None,
            length: 1,
            label: String::new(),
            help: Vec::new(),
        }
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    pub fn at(mut self, location: Location) -> Self {
        self.at = Some(location);
        self
    }

    /// The text of the file that the location points into.
    pub fn source(mut self, text: impl Into<Arc<str>>) -> Self {
        self.source = Some(text.into());
        self
    }

    pub fn length(mut self, characters: usize) -> Self {
        self.length = characters;
        self
    }

    pub fn label(mut self, expected: impl Into<String>) -> Self {
        self.label = expected.into();
        self
    }

    /// Adds a line of help; chain [`Option::into_iter`]-like sources through [`Diagnostic::helps`].
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// Adds as many lines of help as there are.
    pub fn helps(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.help.extend(lines);
        self
    }

    /// The complaint as people read it, without a newline at the end.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&*self.message);
        let path = self.at.as_ref().map(|at| at.file.display().to_string()).unwrap_or_default();
        let mut group = match (&self.at, &self.source) {
            (Some(at), Some(source)) => {
                let span = span(source, at, self.length);
                let annotation = AnnotationKind::Primary.span(span);
                let annotation =
                    if self.label.is_empty() { annotation } else { annotation.label(&*self.label) };
                title.element(Snippet::source(&**source).path(&*path).annotation(annotation))
            }
            (Some(at), None) => {
                let origin = annotate_snippets::Origin::path(&*path).line(at.line).char_column(at.column);
                let group = title.element(origin);
                if self.label.is_empty() { group } else { group.element(Level::NOTE.message(&*self.label)) }
            }
            (None, _) if self.label.is_empty() => title.elements(None::<annotate_snippets::Message<'_>>),
            (None, _) => title.element(Level::NOTE.message(&*self.label)),
        };
        for line in &self.help {
            group = group.element(Level::HELP.message(&**line));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// The bytes of `length` characters from a location on, kept within its line.
fn span(source: &str, at: &Location, length: usize) -> Range<usize> {
    let mut start_of_line = 0;
    for _ in 1..at.line {
        match source[start_of_line..].find('\n') {
            Some(end) => start_of_line += end + 1,
            None => return source.len()..source.len(),
        }
    }
    let line = source[start_of_line..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let offset =
        |characters: usize| line.char_indices().nth(characters).map_or(line.len(), |(offset, _)| offset);
    let column = at.column.saturating_sub(1);
    start_of_line + offset(column)..start_of_line + offset(column + length.max(1))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

/// Several complaints, in the order of the text that they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The warnings when there is no error, all as the error otherwise.
    pub fn into_warnings(self) -> Result<Vec<Diagnostic>, Diagnostics> {
        if self.has_errors() { Err(self) } else { Ok(self.0) }
    }

    pub fn render(&self, colour: bool) -> String {
        self.0.iter().map(|diagnostic| diagnostic.render(colour)).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        self.0.extend(diagnostics);
    }
}

/// The known word that `word` was probably meant to be; none when nothing is close.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', '.', ' '], "");
    let wanted = plain(word);
    let allowed = 1 + wanted.chars().count() / 4;
    known
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A line of help that names the nearest known word.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|candidate| format!("did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_line_and_underlines_the_word() {
        let text = "all:\n  vars:\n    # ü\n    postgres_prot: 5432\n";
        let diagnostic = Diagnostic::error("unknown variable `postgres_prot`")
            .at(Location::new("demo.yml", 4, 5))
            .source(text)
            .length(13)
            .label("no variable has this name")
            .helps(did_you_mean("postgres_prot", ["postgres_port", "ttl"]));
        insta::assert_snapshot!(diagnostic.render(false), @r"
        error: unknown variable `postgres_prot`
         --> demo.yml:4:5
          |
        4 |     postgres_prot: 5432
          |     ^^^^^^^^^^^^^ no variable has this name
          |
          = help: did you mean `postgres_port`?
        ");
    }

    #[test]
    fn renders_without_a_place_or_without_a_source() {
        insta::assert_snapshot!(Diagnostic::warning("two members tolerate no failure").help("use three").render(false), @r"
        warning: two members tolerate no failure
         |
         = help: use three
        ");
        let without_source =
            Diagnostic::error("wrong").at(Location::new("a.yml", 3, 7)).label("expected a list");
        insta::assert_snapshot!(without_source.render(false), @r"
        error: wrong
        --> a.yml:3:7
         = note: expected a list
        ");
    }

    #[test]
    fn a_place_past_the_end_does_not_panic() {
        for (line, column) in [(1, 1), (1, 99), (9, 9), (2, 2)] {
            let text = "é\r\né";
            Diagnostic::error("x").at(Location::new("a", line, column)).source(text).length(50).render(false);
        }
    }

    #[test]
    fn the_nearest_word_is_close_or_none() {
        let known = ["etcd", "postgres", "haproxy", "become", "no_log"];
        assert_eq!(nearest("postgers", known), Some("postgres"));
        assert_eq!(nearest("ha-proxy", known), Some("haproxy"));
        assert_eq!(nearest("nolog", known), Some("no_log"));
        assert_eq!(nearest("elephant", known), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
