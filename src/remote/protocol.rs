//! What the control machine and the hands on a target say to each other.
//!
//! Both directions carry frames: one byte of kind (`J` for a message in JSON, `B` for content), four
//! bytes of length (big endian), the body. Content frames follow the message that announces them.

use crate::{
    model::Digest,
    remote::{
        preflight::{
            Questions, Survey,
            links::{Dial, Door, Reached, Unreached},
        },
        resource::Resource,
    },
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Raised when the two halves would misunderstand each other. They are one executable, so a
/// difference means that the upload was replaced by hand.
pub const PROTOCOL_VERSION: u32 = 1;

/// From the control machine to a target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who runs what, for those who find the host taken. Before the first batch; there is no answer.
    Introduce { purpose: String },
    /// Steps to look at or carry out, in order; the first failure ends the batch.
    Batch(Batch),
    /// Announces a content frame, the answer to [`Event::Need`].
    Content { digest: Digest },
    /// Handlers that are owed, or no longer owed, by the engine's own judgement: where `changed_when` is an
    /// expression, or where no playbook has the handler any more. Between batches; there is no answer.
    Debts {
        #[serde(default)]
        owe: Vec<String>,
        #[serde(default)]
        settle: Vec<String>,
    },
    /// What is there, before anything is done? Between batches; [`Event::Surveyed`] is the answer.
    Survey(Box<Questions>),
    /// Listen on these ports for other hosts, until the session ends; the host is called `name`. Between batches;
    /// [`Event::Opened`] is the answer.
    Open { name: String, doors: Vec<Door> },
    /// Connect to these ports of other hosts. Between batches; [`Event::Dialled`] is the answer.
    Dial(Vec<Dial>),
    /// What of all that we put here is no longer as we put it? Between batches; [`Event::Drifted`] is the answer.
    Drift,
    /// Stop after the current step: the operator pressed Ctrl-C or another host failed. The session ends.
    Cancel,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    pub mode: Mode,
    /// Whether outcomes carry file diffs.
    pub diff: bool,
    /// What was changed by hand since our last run is overwritten; without it, it is kept and the step fails.
    #[serde(default)]
    pub overwrite_drift: bool,
    pub steps: Vec<Step>,
}

/// Plan runs check alone; apply runs check and, where something differs, apply and verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Check,
    Apply,
}

/// One resource of one task, complete: no template is left in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Unique within a run on one host.
    pub id: u32,
    /// The task's name, with the loop's item where there is one.
    pub name: String,
    pub resource: Resource,
    /// Names of handlers that a change owes. Noted as debts on the target before the change is made,
    /// so that a run that dies in between is completed by the next one.
    #[serde(default)]
    pub notify: Vec<String>,
    /// This step is the handler of that name: its debt is struck off once the step has succeeded.
    #[serde(default)]
    pub settles: Option<String>,
    /// The user that commands run as; the batch's own user otherwise.
    #[serde(default)]
    pub become_user: Option<String>,
    /// `changed_when` and `failed_when` where they are literal; expressions are the engine's.
    #[serde(default)]
    pub changed: Option<bool>,
    #[serde(default)]
    pub failed: Option<bool>,
    /// Arguments, diffs and output of this step are secret.
    #[serde(default)]
    pub no_log: bool,
}

/// From a target to the control machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The first message of a session.
    Hello(Hello),
    /// Contents that the batch names and the target has nowhere. Sent before a batch's first step when
    /// anything is missing; once more, rarely, before a step whose file an earlier step has changed.
    Need {
        digests: Vec<Digest>,
    },
    Started {
        step: u32,
    },
    /// Still at it: what the step waits for, and the failing component's last error where known.
    Waiting {
        step: u32,
        message: String,
    },
    Finished {
        step: u32,
        outcome: Outcome,
    },
    /// The batch is over: all steps finished, or one failed, or it was cancelled.
    BatchDone,
    /// The answer to [`Request::Survey`].
    Surveyed(Survey),
    /// The answer to [`Request::Open`], in its order: the port, or why nobody listens.
    Opened(Vec<Result<u16, String>>),
    /// The answer to [`Request::Dial`], in its order.
    Dialled(Vec<Result<Reached, Unreached>>),
    /// The answer to [`Request::Drift`].
    Drifted(Vec<Drift>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// `pgfleet --version` of the executable on the target.
    pub version: String,
    /// Ansible's fact names without the `ansible_` prefix (`distribution`, `distribution_release`,
    /// `architecture`, `memtotal_mb`, `processor_vcpus`, `default_ipv4`, `interfaces`, ...).
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Handlers that an earlier run still owes this host.
    pub debts: Vec<String>,
    /// An earlier run was killed, and has left what no step would find.
    pub interrupted: bool,
}

/// What a step found and did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub verdict: Verdict,
    /// What differs, for people: a unified diff of a file, `absent -> present`, ... Empty when nothing
    /// differs, when the batch asked for none, or under `no_log`.
    #[serde(default)]
    pub diff: String,
    /// What the change costs on its own, before handlers.
    #[serde(default)]
    pub effect: Effect,
    /// Settings of running servers that are to change, each with what it costs.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// What was found is not what we put there.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// What `register` stores: Ansible's return values (`changed`, `rc`, `stdout`, `stdout_lines`, ...).
    #[serde(default)]
    pub result: serde_json::Map<String, serde_json::Value>,
    /// Worth saying although nothing failed, for example a sysctl that the kernel of a container refuses.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub elapsed_ms: u64,
}

/// The key in [`Outcome::result`] under which a look says what a run would wait for.
pub const AWAITED: &str = "awaited";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    Unchanged,
    /// Changed under [`Mode::Apply`]; would change under [`Mode::Check`].
    Changed,
    Failed(Failure),
}

/// What a change does to those who use the cluster, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    #[default]
    None,
    Reload,
    Restart,
    Switchover,
    Outage,
}

/// A setting of a running server that is to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    /// As the running server has it; none where it has no such setting.
    pub old: Option<String>,
    /// None where the setting goes back to the server's own default.
    pub new: Option<String>,
    pub effect: Effect,
}

/// What is installed, and what is on offer: the element of the list `versions` in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// A package, or the agent.
    pub name: String,
    pub installed: Option<String>,
    /// Where it goes or would go; none where it is right as it is.
    pub to: Option<String>,
}

/// Something of ours that is not as we put it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub path: String,
    pub kind: DriftKind,
    /// When what is there was last changed; none where nothing is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftKind {
    /// Its content is neither what we put last nor what we would put now. Overwriting it loses somebody's
    /// work, hence takes a decision.
    Edited,
    /// Its owner or mode alone was changed. Put right: nothing is lost by it.
    Attributes,
    /// It is gone. Put back: nothing is lost by it.
    Removed,
    /// It was there before us. Overwritten: the inventory describes this host now.
    Foreign,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            DriftKind::Edited => "changed by hand since our last run",
            DriftKind::Attributes => "owner or mode changed by hand since our last run",
            DriftKind::Removed => "removed by hand since our last run",
            DriftKind::Foreign => "not ours until now",
        };
        write!(f, "{} {what}", self.path)?;
        match self.changed_at {
            Some(at) => write!(f, ", at {at:.0}"),
            None => Ok(()),
        }
    }
}

/// Why a step failed, complete enough for the reader to act.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
    /// The command that failed, where there was one. Never holds a secret.
    #[serde(default)]
    pub command: Option<String>,
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The last lines that the command or the failing component printed.
    #[serde(default)]
    pub last_lines: Vec<String>,
    /// What to do next.
    #[serde(default)]
    pub next_step: Option<String>,
    /// A wait was given up because the run is to stop: nothing is wrong with this step.
    #[serde(default)]
    pub cancelled: bool,
}
