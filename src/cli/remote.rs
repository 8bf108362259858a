//! `pgfleet remote`: what the control machine starts on a target over SSH. Not for people.

use super::{
    Exit,
    error::{Error, Outcome},
};

/// Serve the control machine on standard input and output
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Outcome {
    crate::remote::run().map(|()| Exit::Done).map_err(|failure| {
        let next = failure.next_step.clone().into_iter().collect();
        Error::Failed(failure.into(), next)
    })
}
