//! What a run says while it goes on. The engine tells; `ui` and the journal listen.

use crate::{
    model::HostName,
    remote::protocol::{Drift, Effect, Failure},
};
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Event {
    Connecting {
        host: HostName,
    },
    Connected {
        host: HostName,
    },
    PlayStarted {
        name: String,
        hosts: Vec<HostName>,
    },
    PlayFinished {
        name: String,
        elapsed: Duration,
    },
    StepStarted {
        host: HostName,
        step: String,
    },
    /// A step that waits: for what, and the failing component's last error where known.
    Waiting {
        host: HostName,
        message: String,
    },
    StepFinished {
        host: HostName,
        step: String,
        finding: Finding,
    },
    /// Something about the run as a whole.
    Noted {
        text: String,
    },
    /// A `debug` task speaks.
    Said {
        host: HostName,
        text: String,
    },
}

/// How one step ended on one host.
#[derive(Clone, Debug)]
pub enum Finding {
    Unchanged { warnings: Vec<String> },
    Changed { diff: String, effect: Effect, drift: Option<Drift>, warnings: Vec<String> },
    Skipped,
    Failed(Failure),
}

/// Where events go. A closed receiver is no reason to stop a run.
pub type Sink = tokio::sync::mpsc::UnboundedSender<Event>;
