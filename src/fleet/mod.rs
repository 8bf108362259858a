//! What an operator does by hand on many hosts at once: commands, files, logs.
//!
//! Everything goes over the SSH sessions that `cluster` opens, as many hosts at a time as are allowed. Knows
//! nothing of playbooks, and never prints: what hosts say goes into channels. Start reading at [`exec`].

mod copy;
mod exec;
pub mod logs;
mod place;

pub use copy::{pull, push};
pub use exec::{Command, Ended, Piece, Said, exec};
pub use place::{NoPlace, Place};

use crate::{
    cluster::Access,
    model::HostName,
    ssh::{Session, SessionError},
};
use futures_util::{StreamExt as _, stream};

/// Why something did not come about on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub message: String,
    pub next_step: String,
    /// The host is not there, in contrast to having said no.
    pub unreachable: bool,
}

impl Trouble {
    fn here(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { message: message.into(), next_step: next_step.into(), unreachable: false }
    }
}

impl From<SessionError> for Trouble {
    fn from(error: SessionError) -> Self {
        let (message, next_step) = (error.problem.to_string(), error.next_step());
        Self { message, next_step, unreachable: error.is_unreachable() }
    }
}

/// Does the same on every host, `forks` at a time. The results are in the order of `hosts`.
async fn on_each<'a, T, F>(
    access: &'a Access,
    hosts: &'a [HostName],
    forks: usize,
    work: impl Fn(&'a HostName, &'a Session) -> F,
) -> Vec<(HostName, Result<T, Trouble>)>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let one = |(index, host): (usize, &'a HostName)| {
        let work = access.session(host).map(|session| work(host, session));
        async move {
            let done = match work {
                Ok(work) => work.await,
                Err(error) => {
                    let next_step = error.next_step();
                    Err(Trouble { message: error.to_string(), next_step, unreachable: true })
                }
            };
            (index, host.clone(), done)
        }
    };
    let started = stream::iter(hosts.iter().enumerate().map(one)).buffer_unordered(forks.max(1));
    let mut done: Vec<_> = started.collect().await;
    done.sort_by_key(|(index, ..)| *index);
    done.into_iter().map(|(_, host, done)| (host, done)).collect()
}
