//! The machine as resources see it: where its root is, what the run has transferred, what earlier steps
//! of a plan would have created, and how to tell the operator what is being waited for.

use crate::{
    model::Digest,
    remote::{
        accounts::Accounts,
        memory::Trace,
        protocol::{Batch, Drift, Effect, Event, Failure, Mode, Setting, Step},
        resource::Content,
    },
};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One target, for as long as a session lasts.
pub(crate) struct Host {
    root: PathBuf,
    contents: RefCell<BTreeMap<Digest, Vec<u8>>>,
    promises: RefCell<Promises>,
    /// Cancelled when the operator or the connection is gone: the step at hand is finished, waits end.
    pub cancelled: CancellationToken,
}

/// What the steps of a plan so far would create.
#[derive(Default)]
struct Promises {
    exact: BTreeSet<String>,
    /// Something (a package, a command) that may create anything.
    anything: bool,
}

impl Host {
    pub fn new(root: PathBuf, cancelled: CancellationToken) -> Self {
        Self { root, contents: RefCell::default(), promises: RefCell::default(), cancelled }
    }

    /// Where `path` of the target is for us.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether this is the running system rather than a directory tree.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    pub fn accounts(&self) -> Accounts<'_> {
        Accounts::of(&self.root)
    }

    pub fn store(&self, content: Vec<u8>) -> Digest {
        let digest = Digest::of(&content);
        self.contents.borrow_mut().insert(digest, content);
        digest
    }

    pub fn holds(&self, digest: &Digest) -> bool {
        self.contents.borrow().contains_key(digest)
    }

    pub fn forget_contents(&self) {
        self.contents.borrow_mut().clear();
    }

    /// The bytes of a content, if they have been transferred.
    pub fn content<'a>(&self, content: &'a Content) -> Option<Cow<'a, [u8]>> {
        match content {
            Content::Inline(text) => Some(Cow::Borrowed(text.as_bytes())),
            Content::Stored { sha256, .. } => self.contents.borrow().get(sha256).cloned().map(Cow::Owned),
        }
    }
}

/// A step on a host.
pub(crate) struct Context<'a> {
    pub host: &'a Host,
    pub mode: Mode,
    /// Whether file diffs are wanted.
    pub diff: bool,
    pub become_user: Option<&'a str>,
    /// The task says by itself whether it changes something.
    pub changed: Option<bool>,
    /// What was changed by hand is overwritten.
    pub overwrite_drift: bool,
    step: u32,
    events: mpsc::UnboundedSender<Event>,
}

impl<'a> Context<'a> {
    pub fn new(host: &'a Host, batch: &Batch, step: &'a Step, events: mpsc::UnboundedSender<Event>) -> Self {
        Self {
            host,
            mode: batch.mode,
            diff: batch.diff && !step.no_log,
            become_user: step.become_user.as_deref(),
            changed: step.changed,
            overwrite_drift: batch.overwrite_drift,
            step: step.id,
            events,
        }
    }

    /// Tells the operator what the step is waiting for.
    pub fn waiting(&self, message: impl Into<String>) {
        // Nobody listens any more when the connection is gone; the step is finished all the same.
        let _ = self.events.send(Event::Waiting { step: self.step, message: message.into() });
    }

    /// A later step of this plan may rely on `what` (`user postgres`, `path /etc/x`, `unit etcd.service`).
    pub fn promise(&self, what: String) {
        if self.mode == Mode::Check {
            self.host.promises.borrow_mut().exact.insert(what);
        }
    }

    /// A later step of this plan may rely on anything.
    pub fn promise_anything(&self) {
        if self.mode == Mode::Check {
            self.host.promises.borrow_mut().anything = true;
        }
    }

    /// Whether an earlier step of this plan would create `what`. Never so when applying.
    pub fn is_promised(&self, what: &str) -> bool {
        let promises = self.host.promises.borrow();
        self.mode == Mode::Check && (promises.anything || promises.exact.contains(what))
    }

    /// Whether an earlier step of this plan would create `path` or a directory above it.
    pub fn is_path_promised(&self, path: &str) -> bool {
        Path::new(path).ancestors().any(|ancestor| self.is_promised(&format!("path {}", ancestor.display())))
    }

    /// Whether any earlier step of this plan would change something.
    pub fn anticipates_change(&self) -> bool {
        let promises = self.host.promises.borrow();
        self.mode == Mode::Check && (promises.anything || !promises.exact.is_empty())
    }
}

/// What a resource found, and after applying it, what it did.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// Something differs; it is then applied.
    pub changed: bool,
    pub diff: String,
    pub effect: Effect,
    pub settings: Vec<Setting>,
    /// What is there is not what we put there.
    pub drift: Option<Drift>,
    /// What is to be remembered of this step once it holds.
    pub trace: Option<Trace>,
    pub result: Map<String, Value>,
    pub warnings: Vec<String>,
}

impl Finding {
    pub fn unchanged() -> Self {
        Self::default()
    }

    pub fn changed(diff: impl Into<String>) -> Self {
        Self { changed: true, diff: diff.into(), ..Self::default() }
    }

    /// Of a file that others have lines in too: it is nobody's drift, and not remembered as ours.
    pub fn shared(self) -> Self {
        Self { drift: None, trace: None, ..self }
    }

    /// What is to be remembered once it holds.
    pub fn leaving(self, trace: Trace) -> Self {
        Self { trace: Some(trace), ..self }
    }

    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.result.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a line to the diff and notes the change.
    pub fn differs(&mut self, line: impl AsRef<str>) {
        self.changed = true;
        if !self.diff.is_empty() && !self.diff.ends_with('\n') {
            self.diff.push('\n');
        }
        self.diff.push_str(line.as_ref());
    }
}

/// What every resource can do.
pub(crate) trait Manage {
    /// Looks, and says what differs. Changes nothing.
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure>;

    /// Makes it so. Called only when something differs.
    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure>;

    /// Proves that it is so: a second look finds nothing to change.
    async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let again = self.check(context).await?;
        if !again.changed {
            return Ok(());
        }
        Err(Failure {
            message: "applied, but it does not hold: right afterwards it differs again".to_owned(),
            last_lines: again.diff.lines().map(str::to_owned).collect(),
            next_step: Some("look for something else on the host that manages the same thing".to_owned()),
            ..Failure::default()
        })
    }
}

/// A failure that is told in one sentence.
pub(crate) fn failure(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), ..Failure::default() }
}

/// The same with what to do next.
pub(crate) fn failure_with(message: impl Into<String>, next_step: impl Into<String>) -> Failure {
    Failure { message: message.into(), next_step: Some(next_step.into()), ..Failure::default() }
}

#[cfg(test)]
impl Host {
    /// A directory tree as a host, or with `/` this machine.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self::new(root.into(), CancellationToken::new())
    }
}
