//! Inventory and playbook become batches, batches become events: plan, apply, handlers, rolling order.
//! Start reading at `run`; `segment` cuts plays into batches, `lower` makes tasks complete, `worker`
//! talks to the hands on a target. Prints nothing; tells what happens through `Event`s.

mod ahead;
mod alone;
mod consequences;
mod control;
mod event;
mod host_run;
mod lint;
mod lower;
mod mask;
mod plan;
mod play;
mod report;
mod run;
mod segment;
mod variables;
mod worker;

pub use consequences::{Consequences, Stage, WritingGap};
pub use event::{Event, Finding, Sink};
pub use lint::{Offence, RULES, Rule, lint};
pub use mask::Mask;
pub use plan::{Inputs, Look, Request, SavedPlan};
pub use report::{Change, HostFailure, Part, PlayTime, Report, Tally};
pub use run::{Engine, Options};
pub use worker::{Lost, NoHands, Worker};
