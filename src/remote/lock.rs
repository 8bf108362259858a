//! One run at a time changes a host.

use crate::remote::{
    files::{self, Attributes},
    host::{Context, failure_with},
    protocol::Failure,
    wait::{Look, until},
};
use nix::fcntl::{Flock, FlockArg};
use std::{fs::File, io::Write, time::Duration};

const PATH: &str = "/var/lib/pgfleet/lock";
/// A run whose control machine is gone finishes its step first; this is how long the next one waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// Held by a session from its first change to its end; the kernel lets go of it when the process ends.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, waiting for a run that is still at work. `purpose` is what that run's operator is told
    /// the other way round.
    pub async fn take(context: &Context<'_>, purpose: &str) -> Result<Self, Failure> {
        let path = context.host.path(PATH);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            files::make_directory(folder, Attributes { mode: Some(0o755), ..Attributes::default() })?;
        }
        let mut taken = None;
        until(context, PATIENCE, async || match attempt(&path, purpose) {
            Ok(lock) => {
                taken = lock;
                match taken {
                    Some(_) => Look::Satisfied,
                    None => {
                        // The holder writes who it is; an empty file is a holder that just came.
                        let holder = std::fs::read_to_string(&path).unwrap_or_default();
                        Look::Missing(format!("another run is at work on this host: {}", holder.trim()))
                    }
                }
            }
            Err(failure) => Look::Hopeless(failure),
        })
        .await
        .map_err(|failure| Failure {
            next_step: Some("wait until the other run has ended, then run again".to_owned()),
            ..failure
        })?;
        taken.ok_or_else(|| failure_with("the lock of the host was not taken", "run again"))
    }
}

fn attempt(path: &std::path::Path, purpose: &str) -> Result<Option<Lock>, Failure> {
    let explain = |error: &std::io::Error| files::explain("lock", path, error);
    let file = File::options().create(true).append(true).open(path).map_err(|error| explain(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let now = jiff::Timestamp::now();
            let process = std::process::id();
            let holder = match purpose {
                "" => format!("process {process}, since {now:.0}\n"),
                purpose => format!("{purpose} (process {process})\n"),
            };
            lock.set_len(0)
                .and_then(|()| lock.write_all(holder.as_bytes()))
                .map_err(|error| explain(&error))?;
            Ok(Some(Lock { _file: lock }))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(explain(&errno.into())),
    }
}
