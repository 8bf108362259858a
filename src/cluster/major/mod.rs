//! A cluster brought to another major version of PostgreSQL: what must hold first, which steps there are, what
//! may go back, and what is remembered of it between two runs.
//!
//! `judge` (pure) weighs what `look` has found; `course` (pure) says what is to be done from where a run
//! stands; `record` is where it stands, kept in the store; `keys` changes what the agents keep there. The
//! steps themselves are playbooks. Start reading at [`course`].

mod control;
mod course;
mod judge;
mod keys;
mod look;
mod mark;
mod record;

pub use control::{Control, behind};
pub use course::{Refusal, Step, Touched, Wish, course};
pub use judge::{Facts, Found, Point, Room, Server, Verdict, after, before};
pub use keys::{MovedOn, renew, restore, saved};
pub use look::{
    LookError, Place, checkpoint, control, extension_updates, found, server, touched, unknown, version,
};
pub use mark::Mark;
pub use record::{Phase, Record};
