//! The only writer to a terminal: data to standard output, all else to standard error. Colour only
//! where a terminal reads it (`anstream` looks, and honours `NO_COLOR`).

pub mod diff;
pub mod hosts;
pub mod plan;
pub mod progress;
pub mod prompt;
pub mod recap;
pub mod steps;

use crate::diagnostic::Diagnostic;
use anstyle::{AnsiColor, Style};
use std::io::{IsTerminal, Write};

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const CHANGED: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const HEADING: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();

/// Writes a line of data to standard output. A reader that has gone away ends nothing.
pub fn line(text: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{text}");
}

/// Writes a line of talk to standard error.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

pub fn warning(text: &str) {
    note(&as_warning(text));
}

/// The line that a warning is.
pub fn as_warning(text: &str) -> String {
    format!("{CHANGED}warning{CHANGED:#}: {text}")
}

/// Writes an error, and below it what to do next.
pub fn error(text: &str, next_steps: &[String]) {
    note(&format!("{BAD}error{BAD:#}: {text}"));
    for step in next_steps {
        note(&format!("  {HEADING}next{HEADING:#}: {step}"));
    }
}

/// Writes what is wrong in a file, with the line of the file.
pub fn diagnostic(diagnostic: &Diagnostic) {
    note(&diagnostic.render(error_colour()));
}

/// Whether standard error is read by a person who can see colour.
pub fn error_colour() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// Whether a live display makes sense: a person watches standard error.
pub fn interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// Waits for something; a person who watches is told for what, once it takes a while.
pub async fn waiting<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !interactive() {
        return work.await;
    }
    if let Ok(done) = tokio::time::timeout(std::time::Duration::from_millis(700), work.as_mut()).await {
        return done;
    }
    let spinner = indicatif::ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// Writes a document as JSON to standard output.
pub fn json(document: &impl serde::Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => line(&text),
        Err(error) => warning(&format!("the result cannot be written as JSON: {error}")),
    }
}

/// Writes a document as one line of JSON to standard output: one of many.
pub fn json_line(document: &impl serde::Serialize) {
    match serde_json::to_string(document) {
        Ok(text) => line(&text),
        Err(error) => warning(&format!("an entry cannot be written as JSON: {error}")),
    }
}

/// Asks a question that is answered by yes or no; `false` where nobody can answer.
pub fn confirm(question: &str) -> bool {
    std::io::stdin().is_terminal()
        && dialoguer::Confirm::new().with_prompt(question).default(false).interact().unwrap_or(false)
}
