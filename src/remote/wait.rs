//! Waiting for a condition: looks again and again, tells the operator what is missing, gives up at a
//! deadline or when the run is cancelled.

use crate::remote::{
    host::{Context, failure_with},
    protocol::Failure,
};
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a look found.
pub(crate) enum Look {
    Satisfied,
    /// What is missing, with the failing component's last error where known.
    Missing(String),
    /// Waiting longer can't help.
    Hopeless(Failure),
}

/// Looks until satisfied. The failure at the deadline says what was missing last.
pub(crate) async fn until(
    context: &Context<'_>,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Look,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    loop {
        let missing = match look().await {
            Look::Satisfied => return Ok(()),
            Look::Hopeless(failure) => return Err(failure),
            Look::Missing(missing) => missing,
        };
        if begun.elapsed() >= limit {
            return Err(failure_with(
                format!("not within {} s: {missing}", limit.as_secs()),
                "look at what is missing, then run the same command again; it continues here",
            ));
        }
        if missing != told {
            context.waiting(missing.clone());
            told = missing;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.host.cancelled.cancelled() => {
                return Err(Failure {
                    cancelled: true,
                    ..failure_with(
                        format!("cancelled while waiting: {told}"),
                        "run the same command again to go on from here",
                    )
                });
            }
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
