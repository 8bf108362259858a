//! Unified diffs for people.

use super::{BAD, DIM, GOOD};

/// The diff with its lines coloured and set in; `anstream` takes the colour away where nobody sees it.
pub fn coloured(diff: &str) -> String {
    diff.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn line(line: &str) -> String {
    match line.chars().next() {
        Some('+') => format!("      {GOOD}{line}{GOOD:#}"),
        Some('-') => format!("      {BAD}{line}{BAD:#}"),
        Some('@') => format!("      {DIM}{line}{DIM:#}"),
        _ => format!("      {line}"),
    }
}
