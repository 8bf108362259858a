//! The rules, as rows. What the agent logs, what goes into the history and what `pgfleet agent rules`
//! prints comes from here. The order matters: within a lane the first that holds fires.

mod follower;
mod keys;
mod leader;
mod lease;
mod pause;
mod peers;
mod server;

use super::{Lane, Plan, facts::Facts};

/// One row.
pub struct Rule {
    pub id: &'static str,
    pub lane: Lane,
    pub when: fn(&Facts) -> bool,
    pub then: fn(&Facts, &mut Plan),
    /// What is the case and what is done about it, in a sentence.
    pub why: &'static str,
}

const fn rule(
    lane: Lane,
    id: &'static str,
    why: &'static str,
    when: fn(&Facts) -> bool,
    then: fn(&Facts, &mut Plan),
) -> Rule {
    Rule { id, lane, when, then, why }
}

/// A rule that says why nothing is done.
fn nothing(_: &Facts, _: &mut Plan) {}

/// All rules, lane by lane, in their order.
pub fn rules() -> impl Iterator<Item = &'static Rule> + Clone {
    server::RULES.iter().chain(lease::RULES).chain(keys::RULES).chain(peers::RULES)
}
