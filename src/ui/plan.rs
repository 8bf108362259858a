//! A plan as people read it: what was changed by hand, what each setting costs, the order, the gap.

use super::{BAD, CHANGED, DIM, HEADING};
use crate::{
    engine::{Consequences, Offence, Report},
    remote::protocol::{DriftKind, Effect},
};
use comfy_table::{Table, presets::NOTHING};

/// A longer value of a setting is shown by the diff alone.
const LONGEST_VALUE: usize = 60;

/// Prints what a plan means, to standard error as the rest of the talk.
pub fn plan(report: &Report, consequences: &Consequences, offences: &[Offence], overwrite_drift: bool) {
    let text = text(report, consequences, offences, overwrite_drift);
    if !text.is_empty() {
        super::note(&format!("\n{text}"));
    }
}

/// The same for programs: the report, and what it means.
pub fn json(report: &Report, consequences: &Consequences, offences: &[Offence]) {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        report: &'a Report,
        consequences: &'a Consequences,
        offences: &'a [Offence],
    }
    super::json(&Document { report, consequences, offences });
}

/// The same as one text, with colours in it.
pub fn text(report: &Report, consequences: &Consequences, offences: &[Offence], overwrite: bool) -> String {
    let parts = [drift(report, overwrite), settings(report), order(consequences), lint(offences)];
    let parts = parts.into_iter().filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n"));
    parts.collect::<Vec<_>>().join("\n\n")
}

/// What is on the hosts in the place of ours, and what becomes of it.
fn drift(report: &Report, overwrite: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for (host, tally) in &report.hosts {
        for drift in tally.changes.iter().filter_map(|change| change.drift.as_ref()) {
            let fate = match drift.kind {
                DriftKind::Edited if !overwrite => format!("{BAD}kept{BAD:#}: `apply` stops there"),
                DriftKind::Edited => format!("{CHANGED}overwritten{CHANGED:#}"),
                DriftKind::Attributes => "put right".to_owned(),
                DriftKind::Removed => "put back".to_owned(),
                DriftKind::Foreign => "overwritten".to_owned(),
            };
            lines.push(format!("  {host}: {drift} -> {fate}"));
        }
    }
    if lines.is_empty() {
        return lines;
    }
    lines.insert(0, format!("{HEADING}Not as we left it{HEADING:#}"));
    let kept = report.hosts.values().flat_map(|tally| &tally.changes).any(|change| {
        change.drift.as_ref().is_some_and(|drift| drift.kind == DriftKind::Edited) && !overwrite
    });
    if kept {
        lines.push(format!(
            "  {HEADING}next{HEADING:#}: take the change into the inventory (`pgfleet import`), or give it up with `--overwrite-drift`"
        ));
    }
    lines
}

fn settings(report: &Report) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    for setting in report.hosts.values().flat_map(|tally| &tally.changes).flat_map(|change| &change.settings)
    {
        let value = |value: &Option<String>| match value.as_deref() {
            None => "(default)".to_owned(),
            Some(text) if text.len() > LONGEST_VALUE => "...".to_owned(),
            Some(text) => text.to_owned(),
        };
        let change = format!("{} -> {}", value(&setting.old), value(&setting.new));
        table.add_row([setting.name.as_str(), &change, cost(setting.effect)]);
    }
    indented("Settings", table)
}

/// What an effect means to those who use the cluster.
fn cost(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing",
        Effect::Reload => "reload",
        Effect::Restart => "restart",
        Effect::Switchover => "restart of the replicas, switchover",
        Effect::Outage => "outage",
    }
}

fn order(consequences: &Consequences) -> Vec<String> {
    if consequences.order.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    for (index, stage) in consequences.order.iter().enumerate() {
        let hosts: Vec<&str> = stage.hosts.iter().map(|host| host.as_str()).collect();
        let effect = if stage.effect == Effect::None { "" } else { cost(stage.effect) };
        let number = format!("{}.", index + 1);
        table.add_row([number, hosts.join(" "), stage.steps.join("; "), effect.to_owned()]);
    }
    let mut lines = indented("In this order", table);
    let gap = &consequences.writing_gap;
    let because =
        if gap.because.is_empty() { String::new() } else { format!(" ({})", gap.because.join("; ")) };
    lines.push(format!("{HEADING}Writes are interrupted{HEADING:#}: {gap}{because}"));
    lines
}

fn lint(offences: &[Offence]) -> Vec<String> {
    let mut lines = Vec::new();
    for offence in offences {
        lines.push(format!("{BAD}refused{BAD:#}: {offence}"));
        lines.push(format!("  {DIM}because {}{DIM:#}", offence.why));
    }
    if !lines.is_empty() {
        lines.push(format!(
            "  {HEADING}next{HEADING:#}: correct the playbook: `serial`, `throttle`, `changed_when`"
        ));
    }
    lines
}

/// The rows under a heading; nothing where there are none.
fn indented(heading: &str, mut table: Table) -> Vec<String> {
    if table.is_empty() {
        return Vec::new();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let rows = table.lines().map(|line| format!("  {}", line.trim_end()));
    std::iter::once(format!("{HEADING}{heading}{HEADING:#}")).chain(rows).collect()
}
