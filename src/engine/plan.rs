//! A plan that was saved: what every step on every host is, and what was found there, as digests. Applying
//! it looks again in the same way and goes on only if nothing has moved.

use super::{Mask, Report};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    inventory::Inventory,
    model::{Digest, HostName},
    playbook::Playbook,
    remote::{
        protocol::{Outcome, Step, Verdict},
        resource::{Resource, ServiceState},
    },
    template::Templates,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{io::Write, path::Path};

/// Raised when plans of before would be misunderstood.
const FORMAT: u32 = 1;

/// A step as it was sent to a host under `plan`, and what was found there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    pub play: String,
    pub step: String,
    pub wave: u32,
    /// Of the whole step: its arguments, contents, handlers.
    pub asked: Digest,
    /// Of what differs.
    pub found: Digest,
    /// The step can't be looked at before it is carried out.
    #[serde(skip)]
    pub blind: bool,
}

impl Look {
    pub fn of(play: &str, wave: u32, step: &Step, outcome: &Outcome, mask: &Mask) -> Self {
        let verdict = match &outcome.verdict {
            Verdict::Unchanged => "unchanged",
            Verdict::Changed => "changed",
            Verdict::Failed(_) => "failed",
        };
        let found = json!([verdict, outcome.effect, outcome.diff, outcome.settings, outcome.drift]);
        Self {
            play: play.to_owned(),
            step: mask.text(&step.name),
            wave,
            asked: Digest::of(serde_json::to_string(step).unwrap_or_default().as_bytes()),
            found: Digest::of(found.to_string().as_bytes()),
            blind: is_blind(step),
        }
    }
}

/// Whether nobody can tell what the step would change. A handler is exempt: it runs because something has
/// changed.
fn is_blind(step: &Step) -> bool {
    if step.settles.is_some() || step.changed == Some(false) {
        return false;
    }
    match &step.resource {
        Resource::Command(run) => run.creates.is_none() && run.removes.is_none() && run.unless.is_none(),
        Resource::Shell(run) => run.creates.is_none() && run.removes.is_none() && run.unless.is_none(),
        Resource::Service(service) => {
            matches!(service.state, Some(ServiceState::Restarted | ServiceState::Reloaded))
        }
        _ => false,
    }
}

/// What the plan was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub limit: Option<String>,
    pub tags: Vec<String>,
    pub skip_tags: Vec<String>,
    pub overwrite_drift: bool,
}

/// The files that a plan is made of, as digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub pgfleet: String,
    pub cluster: String,
    pub extra_vars: Digest,
    /// Of each host's variables.
    pub inventory: IndexMap<HostName, Digest>,
    pub playbook: Digest,
    pub templates: Digest,
}

/// A plan on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    pub format: u32,
    pub made_at: Timestamp,
    pub request: Request,
    pub inputs: Inputs,
    /// How many steps would change something.
    pub changes: usize,
    /// In the order in which they are carried out.
    pub hosts: IndexMap<HostName, Vec<Look>>,
}

/// Where a cluster is no longer as a plan found it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host}: {step}: {what}")]
pub struct Moved {
    pub host: HostName,
    pub step: String,
    pub what: &'static str,
}

impl Inputs {
    pub fn of(inventory: &Inventory, playbook: &Playbook, templates: &Templates) -> Self {
        let variables = |vars: &Map<String, Value>| Digest::of(json!(vars).to_string().as_bytes());
        let texts = playbook.texts().map(|(path, text)| format!("{}\n{text}\n", path.display()));
        Self {
            pgfleet: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: inventory.cluster.to_string(),
            extra_vars: variables(inventory.extra_vars()),
            inventory: inventory
                .hosts
                .values()
                .map(|host| (host.name.clone(), variables(&inventory.variables(host))))
                .collect(),
            playbook: Digest::of(texts.collect::<String>().as_bytes()),
            templates: templates.digest(),
        }
    }

    /// What has changed since these were noted; empty when nothing has.
    fn moved(&self, now: &Inputs) -> Vec<String> {
        if self.cluster != now.cluster {
            return vec![format!(
                "the plan is for the cluster `{}`, not for `{}`",
                self.cluster, now.cluster
            )];
        }
        let mut moved = Vec::new();
        if self.pgfleet != now.pgfleet {
            moved.push(format!("the plan was made by pgfleet {}, this is {}", self.pgfleet, now.pgfleet));
        }
        if self.extra_vars != now.extra_vars {
            // Variables of `-e` are part of every host's: one word about it is enough.
            moved.push("the variables of `-e` are not those that the plan was made with".to_owned());
        } else if self.inventory != now.inventory {
            let known = self.inventory.keys().chain(now.inventory.keys());
            let mut hosts: Vec<&str> = known
                .filter(|host| self.inventory.get(*host) != now.inventory.get(*host))
                .map(HostName::as_str)
                .collect();
            hosts.sort_unstable();
            hosts.dedup();
            moved.push(match hosts.is_empty() {
                true => "the inventory has changed: its hosts are in another order".to_owned(),
                false => format!("the inventory has changed for {}", hosts.join(", ")),
            });
        }
        if self.playbook != now.playbook {
            moved.push("the playbook has changed".to_owned());
        }
        if self.templates != now.templates {
            moved.push("the templates have changed".to_owned());
        }
        moved
    }
}

impl SavedPlan {
    pub fn new(request: Request, inputs: Inputs, report: &Report) -> Self {
        let hosts = report.hosts.iter().map(|(host, tally)| (host.clone(), tally.looks.clone()));
        Self {
            format: FORMAT,
            made_at: Timestamp::now(),
            request,
            inputs,
            changes: report.changed(),
            hosts: hosts.collect(),
        }
    }

    /// Writes the plan, readable by its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), Diagnostic> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let written = (|| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok::<(), std::io::Error>(())
        })();
        written.map_err(|error| {
            Diagnostic::error(format!("the plan cannot be written to `{}`: {error}", path.display()))
                .help("name a file in a folder that you may write to")
        })
    }

    pub fn read(path: &Path) -> Result<Self, Diagnostic> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Diagnostic::error(format!("the plan `{}` cannot be read: {error}", path.display()))
                .help("make one with `pgfleet plan -o FILE`")
        })?;
        let unreadable = |error: &serde_json::Error| {
            Diagnostic::error(format!("`{}` is not a plan that pgfleet has saved", path.display()))
                .at(Location::new(path, error.line().max(1), error.column().max(1)))
                .label(error.to_string())
                .help("make one with `pgfleet plan -o FILE`")
        };
        let any: Value = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
        match any["format"].as_u64() {
            Some(format) if format != u64::from(FORMAT) => Err(Diagnostic::error(format!(
                "`{}` was saved by another version of pgfleet",
                path.display()
            ))
            .label(format!("its format is {format}, expected {FORMAT}"))
            .help("make the plan anew with `pgfleet plan -o FILE`")),
            _ => serde_json::from_str(&text).map_err(|error| unreadable(&error)),
        }
    }

    /// Whether the files are still those that the plan was made of.
    pub fn fits(&self, now: &Inputs) -> Result<(), Diagnostics> {
        let moved = self.inputs.moved(now).into_iter().map(|what| {
            Diagnostic::error(what).help("make the plan anew with `pgfleet plan -o FILE`, and look at it")
        });
        let moved: Vec<_> = moved.collect();
        if moved.is_empty() { Ok(()) } else { Err(Diagnostics(moved)) }
    }

    /// Compares with what a new look has found; the first difference, in the order of the steps.
    pub fn compare(&self, report: &Report) -> Result<(), Moved> {
        for (host, planned) in &self.hosts {
            let now = report.hosts.get(host).map_or(&[][..], |tally| &tally.looks);
            compare(planned, now).map_err(|(step, what)| Moved { host: host.clone(), step, what })?;
        }
        match report
            .hosts
            .iter()
            .find(|(host, tally)| !self.hosts.contains_key(*host) && !tally.looks.is_empty())
        {
            None => Ok(()),
            Some((host, tally)) => Err(Moved {
                host: host.clone(),
                step: tally.looks[0].step.clone(),
                what: "the plan does nothing on this host",
            }),
        }
    }
}

fn compare(planned: &[Look], now: &[Look]) -> Result<(), (String, &'static str)> {
    for (index, look) in planned.iter().enumerate() {
        match now.get(index) {
            None => return Err((look.step.clone(), "it would not be carried out any more")),
            Some(other) if other.step != look.step || other.play != look.play => {
                return Err((other.step.clone(), "it would be carried out, and is not in the plan here"));
            }
            Some(other) if other.asked != look.asked => {
                return Err((look.step.clone(), "what it depends on has changed on the hosts"));
            }
            Some(other) if other.found != look.found => {
                return Err((look.step.clone(), "what it finds on the host has changed"));
            }
            Some(other) if other.wave != look.wave => {
                return Err((look.step.clone(), "it would be carried out in another order"));
            }
            Some(_) => {}
        }
    }
    match now.get(planned.len()) {
        None => Ok(()),
        Some(more) => Err((more.step.clone(), "it would be carried out, and is not in the plan")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Tally;

    fn look(step: &str, asked: &str, found: &str) -> Look {
        Look {
            play: "HAProxy".to_owned(),
            step: step.to_owned(),
            wave: 1,
            asked: Digest::of(asked.as_bytes()),
            found: Digest::of(found.as_bytes()),
            blind: false,
        }
    }

    fn inputs(cluster: &str, host: &str, extra: &str) -> Inputs {
        Inputs {
            pgfleet: "1.0.0".to_owned(),
            cluster: cluster.to_owned(),
            extra_vars: Digest::of(extra.as_bytes()),
            inventory: IndexMap::from_iter([("pg-1".parse().expect("a name"), Digest::of(host.as_bytes()))]),
            playbook: Digest::of(b"playbook"),
            templates: Digest::of(b"templates"),
        }
    }

    fn report(looks: Vec<Look>) -> Report {
        let tally = Tally { looks, ..Tally::default() };
        Report { hosts: IndexMap::from_iter([("pg-1".parse().expect("a name"), tally)]), ..Report::default() }
    }

    #[test]
    fn the_first_step_that_is_not_as_planned_is_named() {
        let planned = vec![look("a", "1", "x"), look("b", "2", "y")];
        let plan = SavedPlan::new(Request::default(), inputs("demo", "h", "e"), &report(planned.clone()));
        let moved =
            |looks| plan.compare(&report(looks)).err().map_or(String::new(), |moved| moved.to_string());
        assert_eq!(moved(planned.clone()), "");
        let but = |index: usize, look: Look| {
            let mut looks = planned.clone();
            looks[index] = look;
            moved(looks)
        };
        insta::assert_snapshot!(
            [
                but(1, look("b", "2", "z")),
                but(1, look("b", "3", "y")),
                but(0, look("c", "1", "x")),
                moved(planned[..1].to_vec()),
                moved([planned.clone(), vec![look("c", "", "")]].concat()),
                but(1, Look { wave: 2, ..look("b", "2", "y") }),
                moved(Vec::new()),
            ]
            .join("\n"),
            @"
        pg-1: b: what it finds on the host has changed
        pg-1: b: what it depends on has changed on the hosts
        pg-1: c: it would be carried out, and is not in the plan here
        pg-1: b: it would not be carried out any more
        pg-1: c: it would be carried out, and is not in the plan
        pg-1: b: it would be carried out in another order
        pg-1: a: it would not be carried out any more
        "
        );
    }

    #[test]
    fn files_that_have_changed_are_named() {
        let plan = SavedPlan::new(Request::default(), inputs("demo", "h", "e"), &report(Vec::new()));
        let moved = |now: Inputs| plan.inputs.moved(&now).join("; ");
        assert_eq!(moved(inputs("demo", "h", "e")), "");
        let newer = Inputs {
            pgfleet: "1.0.1".to_owned(),
            templates: Digest::of(b"others"),
            playbook: Digest::of(b"another"),
            ..inputs("demo", "other", "e")
        };
        insta::assert_snapshot!(
            [
                moved(inputs("other", "h", "e")),
                moved(inputs("demo", "other", "e")),
                moved(inputs("demo", "other", "other")),
                moved(newer),
            ]
            .join("\n"),
            @"
        the plan is for the cluster `demo`, not for `other`
        the inventory has changed for pg-1
        the variables of `-e` are not those that the plan was made with
        the plan was made by pgfleet 1.0.0, this is 1.0.1; the inventory has changed for pg-1; the playbook has changed; the templates have changed
        "
        );
    }

    #[test]
    fn a_plan_comes_back_from_its_file_which_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plan.json");
        let report = report(vec![look("a", "1", "x")]);
        let plan = SavedPlan::new(Request::default(), inputs("demo", "h", "e"), &report);
        plan.write(&path).expect("written");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        let back = SavedPlan::read(&path).expect("readable");
        assert_eq!((back.compare(&report), back.inputs == plan.inputs), (Ok(()), true));
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let wrong = SavedPlan::read(&path).expect_err("a refusal");
            let text = format!("{} ({})", wrong.message, wrong.label);
            text.replace(&folder.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!([refused("{\"format\": 2}"), refused("all:\n"), refused("{}")].join("\n"), @"
        `DIR/plan.json` was saved by another version of pgfleet (its format is 2, expected 1)
        `DIR/plan.json` is not a plan that pgfleet has saved (expected value at line 1 column 1)
        `DIR/plan.json` is not a plan that pgfleet has saved (missing field `format` at line 1 column 2)
        ");
    }
}
