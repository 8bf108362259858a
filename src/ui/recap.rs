//! The end of a run: what changed where, how long each play took, what failed and what to do next.

use super::{BAD, CHANGED, DIM, HEADING};
use crate::engine::{HostFailure, Report};
use comfy_table::{Cell, CellAlignment, Table, presets};

/// Prints the recap of a run to standard error.
pub fn recap(report: &Report, would: bool) {
    if !report.hosts.is_empty() {
        super::note(&format!("\n{}", tallies(report, would)));
    }
    let plays: Vec<String> =
        report.plays.iter().map(|play| format!("{} {:.1} s", play.name, play.seconds)).collect();
    if !plays.is_empty() {
        super::note(&format!("{DIM}{}{DIM:#}", plays.join(" · ")));
    }
    for failure in &report.failures {
        self::failure(failure);
    }
    if report.not_reached > 0 {
        super::note(&format!("{} tasks were not reached.", report.not_reached));
    }
    if report.cancelled {
        super::note(&format!("\n{CHANGED}Stopped{CHANGED:#} between two steps: nothing is half-done."));
        super::note(&format!("  {HEADING}next{HEADING:#}: the same command goes on from here"));
    }
}

/// A table with a row per host.
fn tallies(report: &Report, would: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "host",
        if would { "would change" } else { "changed" },
        "unchanged",
        "skipped",
        "failed",
    ]);
    for (host, tally) in &report.hosts {
        let failed = report.failures.iter().filter(|failure| failure.host == *host).count();
        table.add_row([
            Cell::new(host),
            number(tally.changes.len()),
            number(tally.unchanged),
            number(tally.skipped),
            number(failed),
        ]);
    }
    table
}

fn number(count: usize) -> Cell {
    Cell::new(count).set_alignment(CellAlignment::Right)
}

/// Prints host, task, command, exit code, its last lines and the next step.
fn failure(failure: &HostFailure) {
    super::note(&format!(
        "\n{BAD}error{BAD:#}: {}: {}: {}",
        failure.host, failure.step, failure.failure.message
    ));
    if let Some(at) = &failure.at {
        super::note(&format!("  task: {}:{}:{}", at.file.display(), at.line, at.column));
    }
    if let Some(command) = &failure.failure.command {
        let code = failure.failure.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
        super::note(&format!("  command: {command}{code}"));
    }
    for line in &failure.failure.last_lines {
        super::note(&format!("  {DIM}|{DIM:#} {line}"));
    }
    if let Some(next) = &failure.failure.next_step {
        super::note(&format!("  {HEADING}next{HEADING:#}: {next}"));
    }
}
