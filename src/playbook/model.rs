//! What a playbook comes to once it is read: plays of tasks, blocks flattened, imports done.

use super::sources::Source;
use crate::diagnostic::Location;
use serde_json::{Map, Value};

/// Tasks for some hosts, and the handlers that they may notify.
#[derive(Clone, Debug)]
pub struct Play {
    pub name: String,
    /// A pattern of hosts and groups, its terms joined by `:`.
    pub hosts: String,
    /// Sizes of the batches of hosts that go through the play one after another; one batch when empty.
    pub serial: Vec<Serial>,
    pub order: Order,
    pub r#become: Option<bool>,
    pub become_user: Option<String>,
    pub vars: Map<String, Value>,
    pub tags: Vec<String>,
    /// `pre_tasks`, `tasks` and `post_tasks`, with a flush of handlers between them.
    pub tasks: Vec<Task>,
    /// In the order in which they run.
    pub handlers: Vec<Task>,
    pub at: Location,
}

/// The size of a batch of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    Hosts(u32),
    /// Of the play's hosts; at least one host.
    Percent(u32),
}

impl Serial {
    /// How many hosts of `total` a batch has; never zero.
    pub fn of(self, total: usize) -> usize {
        match self {
            Serial::Hosts(hosts) => (hosts as usize).max(1),
            Serial::Percent(percent) => (total * percent as usize / 100).max(1),
        }
    }
}

/// The order in which a play takes its hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Inventory,
    ReverseInventory,
    Sorted,
    ReverseSorted,
}

/// One step of a play. Texts are as their author wrote them: templates in them are not rendered yet.
#[derive(Clone, Debug)]
pub struct Task {
    /// The author's name for it, or the module's.
    pub name: String,
    pub at: Location,
    pub action: Action,
    /// All must hold.
    pub when: Vec<String>,
    /// A list, or a text that renders to one.
    pub r#loop: Option<Value>,
    pub loop_var: String,
    pub index_var: Option<String>,
    /// What is shown of an item instead of the item.
    pub loop_label: Option<String>,
    /// The variable that receives the outcome.
    pub register: Option<String>,
    /// Names of handlers, or words that they listen to.
    pub notify: Vec<String>,
    /// For a handler: further words that it answers to.
    pub listen: Vec<String>,
    /// Its own and those inherited.
    pub tags: Vec<String>,
    pub run_once: bool,
    /// For a handler: on how many hosts it may run at the same time.
    pub throttle: Option<u32>,
    pub delegate_to: Option<String>,
    /// The task changed something when all hold; the module decides when empty.
    pub changed_when: Vec<String>,
    /// The task failed when all hold; the module decides when empty.
    pub failed_when: Vec<String>,
    /// Repeated until all hold; no repetition when empty.
    pub until: Vec<String>,
    pub retries: u32,
    pub delay_secs: u64,
    pub no_log: bool,
    /// The play's, when the task says nothing.
    pub r#become: Option<bool>,
    pub become_user: Option<String>,
    pub vars: Map<String, Value>,
    /// `true`: only looks, even when applying. `false`: runs even when planning.
    pub check_mode: Option<bool>,
}

impl Task {
    /// Whether a run limited to `tags` (all when empty) without `skip` carries the task out. Ansible's
    /// rules: `always` runs unless it is skipped by name, `never` runs only when one of the task's tags is
    /// asked for; `all`, `tagged` and `untagged` may be asked for or skipped.
    pub fn selected(&self, tags: &[String], skip: &[String]) -> bool {
        selected(&self.tags, tags, skip)
    }

    /// Whether a notification of `name` wakes this handler.
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.listen.iter().any(|word| word == name)
    }
}

pub(super) fn selected(own: &[String], tags: &[String], skip: &[String]) -> bool {
    let has = |name: &str| own.iter().any(|tag| tag == name);
    let tagged = own.iter().any(|tag| tag != "always" && tag != "never");
    let asked = |wanted: &String| match wanted.as_str() {
        "all" => !has("never"),
        "tagged" => tagged && !has("never"),
        "untagged" => !tagged && !has("never"),
        name => has(name),
    };
    let skipped = |unwanted: &String| match unwanted.as_str() {
        "all" => !has("always"),
        "tagged" => tagged,
        "untagged" => !tagged,
        name => has(name),
    };
    let wanted = if tags.is_empty() { !has("never") } else { tags.iter().any(asked) || has("always") };
    wanted && !skip.iter().any(skipped)
}

/// What a task does. All but `Module` is carried out on the control machine.
#[derive(Clone, Debug)]
pub enum Action {
    /// A resource on the target. `name` is the module's own name, never an alias; `args` is a map.
    Module {
        name: String,
        args: Value,
    },
    IncludeTasks(Include),
    Assert {
        that: Vec<String>,
        fail_msg: Option<String>,
        success_msg: Option<String>,
    },
    Debug(Debug),
    Fail {
        msg: String,
    },
    SetFact(Map<String, Value>),
    FlushHandlers,
}

impl Action {
    /// The playbook's word for it.
    pub fn word(&self) -> &str {
        match self {
            Action::Module { name, .. } => name,
            Action::IncludeTasks(_) => "include_tasks",
            Action::Assert { .. } => "assert",
            Action::Debug(_) => "debug",
            Action::Fail { .. } => "fail",
            Action::SetFact(_) => "set_fact",
            Action::FlushHandlers => "meta",
        }
    }
}

/// What `debug` shows.
#[derive(Clone, Debug)]
pub enum Debug {
    Msg(Value),
    /// An expression.
    Var(String),
}

/// Tasks from another file, included while the play runs.
#[derive(Clone, Debug)]
pub struct Include {
    /// The file's name; may hold templates.
    pub file: String,
    /// The tasks, read already, when the name holds no template.
    pub tasks: Option<Vec<Task>>,
    /// The file that includes.
    pub(super) from: Source,
    /// Files that are being included, this one's among them; guards against circles.
    pub(super) chain: Vec<Source>,
}
