//! `pgfleet check`: are the files right? Looks at the inventory, playbooks and templates; touches no host.

use super::{
    Exit,
    common::{Common, Format},
    context::overrides,
    error::Outcome,
};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    inventory::Inventory,
    playbook::{self, Playbook, Sources},
    template::{self, Templates},
    ui,
};
use serde_json::json;

/// Check the inventory, playbooks and templates. Changes nothing
#[derive(clap::Args)]
pub struct Args {
    /// Playbooks of your own to check besides
    #[arg(value_name = "PLAYBOOK")]
    playbooks: Vec<String>,

    #[command(flatten)]
    pub common: Common,
}

/// What was looked at, and what is wrong with it.
#[derive(Default)]
struct Findings {
    /// A line for each kind of file that is right.
    right: Vec<String>,
    wrong: Diagnostics,
}

pub fn run(args: &Args) -> Outcome {
    let findings = files(args);
    match args.common.format {
        Format::Text => {
            findings.wrong.0.iter().for_each(ui::diagnostic);
            findings.right.iter().for_each(|line| ui::line(line));
        }
        Format::Json => ui::json(&json!({
            "valid": !findings.wrong.has_errors(),
            "problems": findings.wrong.0.iter().map(problem).collect::<Vec<_>>(),
        })),
    }
    Ok(if findings.wrong.has_errors() { Exit::Invalid } else { Exit::Done })
}

fn files(args: &Args) -> Findings {
    let mut findings = Findings::default();
    match Inventory::inspect(&args.common.inventory, &args.common.extra_vars) {
        Ok(inventory) => {
            let (hosts, cluster) = (inventory.hosts.len(), &inventory.cluster);
            let path = args.common.inventory.display();
            findings.right.push(format!("ok  inventory {path}: cluster `{cluster}`, {hosts} hosts"));
            if let Some(Err(wrong)) = args.common.limit.as_ref().map(|limit| inventory.select(limit)) {
                findings.wrong.push(wrong.help("it is the pattern of --limit"));
            }
            findings.wrong.extend(inventory.warnings);
        }
        Err(wrong) => findings.wrong.extend(wrong.0),
    }
    match Templates::new(overrides("templates")) {
        Ok(mut templates) => {
            check_templates(&templates, &mut findings);
            check_playbooks(&mut templates, &args.playbooks, &mut findings);
        }
        Err(wrong) => findings.wrong.extend(wrong.0),
    }
    findings
}

fn check_templates(templates: &Templates, findings: &mut Findings) {
    let shipped = template::shipped();
    let wrong: Vec<Diagnostic> =
        shipped.iter().filter_map(|(name, _)| templates.check_file(name).err()).collect();
    if wrong.is_empty() {
        findings.right.push(format!("ok  {} templates", shipped.len()));
    }
    findings.wrong.extend(wrong);
}

fn check_playbooks(templates: &mut Templates, own: &[String], findings: &mut Findings) {
    let sources = Sources { directories: overrides("playbooks") };
    let shipped = playbook::shipped().into_iter().filter(|name| !name.contains('/')).map(str::to_owned);
    let mut right = 0;
    for name in shipped.chain(own.iter().cloned()) {
        let checked = Playbook::load(&name, &sources).and_then(|playbook| {
            playbook.texts().for_each(|(path, text)| templates.remember(path, text.clone()));
            playbook.check_templates(templates)
        });
        match checked {
            Ok(()) => right += 1,
            Err(wrong) => {
                let fresh = wrong.0.into_iter().filter(|diagnostic| !findings.wrong.0.contains(diagnostic));
                let fresh: Vec<Diagnostic> = fresh.collect();
                findings.wrong.extend(fresh);
            }
        }
    }
    findings.right.push(format!("ok  {right} playbooks"));
}

fn problem(diagnostic: &Diagnostic) -> serde_json::Value {
    let at = diagnostic.at.as_ref();
    json!({
        "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "message": diagnostic.message,
        "file": at.map(|at| at.file.display().to_string()),
        "line": at.map(|at| at.line),
        "column": at.map(|at| at.column),
        "expected": diagnostic.label,
        "help": diagnostic.help,
    })
}
