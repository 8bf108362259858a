//! `pgfleet check`: are the files right, and with `--hosts`, are the hosts ready?

use super::{
    Exit,
    common::{Common, Format},
    context::{Context, keyring, overrides},
    error::{Error, Outcome},
};
use crate::{
    cluster::preflight::{self, Finding, Machine, Scope, Verdict},
    diagnostic::{Diagnostic, Diagnostics, Severity},
    inventory::Inventory,
    playbook::{self, Playbook, Sources},
    secret::Keyring,
    template::{self, Templates},
    ui,
};
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

/// Check the inventory, playbooks and templates, and with --hosts whether the hosts are ready
#[derive(clap::Args)]
#[command(after_help = "\
Without --hosts no host is touched. With it every host is asked what it has: whether it can be reached and
commands run as root; its system, memory and disks, and how long a write takes to be safe; whether the ports
are free, the virtual address and its VRRP id too, and nothing of an older cluster is in the way. Then the
hosts try each other: every port that one needs of another is dialled from there, at the service where it runs
(over TLS where that is on), else where pgfleet listens for a moment; round trips, the difference of clocks and
the size of packets that get through are measured. Nothing is changed. One thing is left behind: pgfleet
itself, in /var/lib/pgfleet/bin, which looks around there and which a bootstrap needs anyway.

Exit code: 0 when all is well, also with warnings; 1 when a host is not ready; 2 when a file is wrong;
3 when a host cannot be reached.

Examples:
  pgfleet check -i inventory.yml
  pgfleet check -i inventory.yml --hosts
  pgfleet check --hosts --format json | jq '.hosts[] | select(.verdict != \"ok\")'")]
pub struct Args {
    /// Ask every host whether it is ready for a bootstrap, too
    #[arg(long)]
    pub hosts: bool,

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
    print(args, &files(args, &keys(args)))
}

fn keys(args: &Args) -> Keyring {
    keyring(&args.common.vault_password_file, !args.common.yes)
}

fn print(args: &Args, findings: &Findings) -> Outcome {
    match args.common.format {
        Format::Text => findings.print(),
        Format::Json => ui::json(&findings.document()),
    }
    Ok(if findings.wrong.has_errors() { Exit::Invalid } else { Exit::Done })
}

/// Files first, then the hosts: wrong files would be asked about in vain.
pub async fn hosts(args: Args) -> Outcome {
    let keys = keys(&args);
    let files = files(&args, &keys);
    if files.wrong.has_errors() {
        return print(&args, &files);
    }
    // Not `Context::load`, which would write generated passwords.
    let inventory = Inventory::inspect_with(&args.common.inventory, &args.common.extra_vars, &keys)?;
    let context = Context { common: args.common, inventory, templates: Templates::new(Vec::new())? };
    let hosts = context.inventory.select(context.common.limit.as_deref().unwrap_or("all"))?;
    let everyone = hosts.len() == context.inventory.hosts.len();
    let (options, executables) = (context.ssh(), context.executables()?);
    let forks = usize::from(context.common.forks);
    let asked = preflight::ask(&context.inventory, &hosts, &options, &executables, forks, Scope::Everything);
    let machines = ui::waiting("asking the hosts, and letting them try each other", asked).await;
    let findings = preflight::judge(&machines, everyone);
    match context.common.format {
        Format::Text => {
            files.print();
            ui::line("");
            table(&findings).iter().for_each(|line| ui::line(line));
            ui::note(&format!("\n{}", summary(&findings)));
        }
        Format::Json => {
            let mut document = files.document();
            document["hosts"] = json!(findings);
            ui::json(&document);
        }
    }
    Ok(exit(&machines, &findings))
}

fn exit(machines: &[Machine], findings: &[Finding]) -> Exit {
    let unreachable =
        machines.iter().any(|machine| machine.found.as_ref().is_err_and(|obstacle| obstacle.unreachable));
    match preflight::worst(findings) {
        _ if unreachable => Exit::Unreachable,
        Verdict::Fail => Exit::Failed,
        Verdict::Ok | Verdict::Warn => Exit::Done,
    }
}

/// Whether the hosts get through to each other, before a bootstrap. An error means that they do not, and that
/// nothing was changed. Hosts that are not there at all are told by the bootstrap itself.
pub async fn links(context: &Context) -> Result<(), Error> {
    let hosts = context.inventory.select(context.common.limit.as_deref().unwrap_or("all"))?;
    if hosts.len() < 2 {
        return Ok(());
    }
    let (options, executables) = (context.ssh(), context.executables()?);
    let forks = usize::from(context.common.forks);
    let asked = preflight::ask(&context.inventory, &hosts, &options, &executables, forks, Scope::Links);
    let machines = ui::waiting("letting the hosts try each other", asked).await;
    let findings = preflight::obstructed(&machines);
    if findings.is_empty() {
        return Ok(());
    }
    table(&findings).iter().for_each(|line| ui::note(line));
    Err(Error::failed(anyhow::anyhow!("the hosts do not get through to each other; nothing was changed"))
        .next("repair what is named above, see it right with `pgfleet check --hosts`, and bootstrap again")
        .next("where a firewall is to be opened later, `--skip-preflight` goes on regardless"))
}

/// A row for each finding, and below its message what to do.
fn table(findings: &[Finding]) -> Vec<String> {
    const RESULT: &str = "RESULT";
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["HOST", "CHECK", RESULT, "MESSAGE"]);
    let mut last = "";
    for finding in findings {
        let host = if finding.host == last { "" } else { &finding.host };
        let next = finding.next_step.as_ref().map(|next| format!("\n-> {next}")).unwrap_or_default();
        table.add_row([host, finding.check, word(finding.verdict), &format!("{}{next}", finding.message)]);
        last = &finding.host;
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    // Colours would count as width while the table is laid out.
    let at = lines.first().and_then(|header| header.find(RESULT)).unwrap_or_default();
    lines.iter().map(|line| coloured(line, at)).collect()
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

/// The line with the result at that place in its colour.
fn coloured(line: &str, at: usize) -> String {
    for (verdict, style) in [(Verdict::Ok, ui::GOOD), (Verdict::Warn, ui::CHANGED), (Verdict::Fail, ui::BAD)]
    {
        let word = word(verdict);
        if let Some((before, rest)) = line.split_at_checked(at)
            && let Some(after) = rest.strip_prefix(word).filter(|after| after.starts_with(' '))
        {
            return format!("{before}{style}{word}{style:#}{after}");
        }
    }
    line.to_owned()
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => "Every host is ready.".to_owned(),
        (0, warnings) => format!("Every host is ready; {warnings} to look at."),
        (fails, 0) => format!("Not ready: {fails} to repair."),
        (fails, warnings) => format!("Not ready: {fails} to repair, {warnings} to look at."),
    }
}

impl Findings {
    fn print(&self) {
        self.wrong.0.iter().for_each(ui::diagnostic);
        self.right.iter().for_each(|line| ui::line(line));
    }

    fn document(&self) -> Value {
        json!({
            "valid": !self.wrong.has_errors(),
            "problems": self.wrong.0.iter().map(problem).collect::<Vec<_>>(),
        })
    }
}

fn files(args: &Args, keys: &Keyring) -> Findings {
    let mut findings = Findings::default();
    match Inventory::inspect_with(&args.common.inventory, &args.common.extra_vars, keys) {
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
    let shipped = playbook::names().into_iter().map(str::to_owned);
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
