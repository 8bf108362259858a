//! What is to be done, from where an upgrade stands. Pure.

use super::{Control, Phase, Record};
use crate::{model::PgMajor, remote::resource::Transfer};
use jiff::Timestamp;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Bring the cluster to this version.
    Upgrade(PgMajor),
    /// Give it up, and serve from the old data again.
    Back,
    /// Delete the old data and the old version's packages.
    Finish,
}

/// A step of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look whether anything stands in the way.
    Check,
    /// Shut the old cluster down.
    Stop,
    /// Take the data over.
    Upgrade,
    /// Start the new primary, for clients to write to.
    Open,
    /// Gather statistics for the planner.
    Analyze,
    /// Copy the new primary's data to the other members, one after the other.
    Replicas,
    /// Serve from the old data again.
    GoBack,
    /// Delete what is old.
    Finish,
}

/// What has become of the new cluster since pg_upgrade has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// No server has run on it.
    Never,
    /// A server has run, and no transaction has written.
    Started,
    Written,
}

impl Touched {
    /// By the control file after pg_upgrade and now. Only of a server that is down does it tell everything.
    pub fn since(fresh: &Control, now: &Control) -> Self {
        match () {
            () if now.next_xid != fresh.next_xid => Self::Written,
            () if now == fresh => Self::Never,
            () => Self::Started,
        }
    }
}

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no upgrade is under way")]
    Nothing,
    #[error("an upgrade from PostgreSQL {from} to {to} is under way: it had come so far that {}", phase.words())]
    Another { from: PgMajor, to: PgMajor, phase: Phase },
    #[error("PostgreSQL {to} has taken writes since {since}: the old data of PostgreSQL {from} lack them")]
    Written { from: PgMajor, to: PgMajor, since: Timestamp },
    #[error(
        "PostgreSQL {to} was started on the very files of PostgreSQL {from} (--link): the old server can no longer use them"
    )]
    Linked { from: PgMajor, to: PgMajor },
    #[error("the upgrade is not complete: it had come so far that {}", phase.words())]
    Unfinished { to: PgMajor, phase: Phase },
}

impl Refusal {
    /// What the operator does next.
    pub fn next_step(&self) -> String {
        match self {
            Self::Nothing => "Begin one with `pgfleet upgrade-major --to VERSION`.".to_owned(),
            Self::Another { to, phase: Phase::Done, .. } => {
                format!("End the one to {to} first: `pgfleet upgrade-major --finish` deletes the old data.")
            }
            Self::Another { to, .. } => {
                format!("Go on with it (`pgfleet upgrade-major --to {to}`) or give it up (`--back`).")
            }
            Self::Written { .. } | Self::Linked { .. } => {
                "To have the old version again, restore a backup into a cluster of its own, or dump and load."
                    .to_owned()
            }
            Self::Unfinished { to, .. } => format!("Complete it first: `pgfleet upgrade-major --to {to}`."),
        }
    }
}

/// The steps from where the upgrade stands. `touched` is what has become of the new cluster, where there is
/// one.
pub fn course(record: Option<&Record>, wish: Wish, touched: Touched) -> Result<Vec<Step>, Refusal> {
    use Step::{Analyze, Check, Finish, GoBack, Open, Replicas, Stop, Upgrade};
    let all = [Check, Stop, Upgrade, Open, Analyze, Replicas];
    let Some(record) = record else {
        return match wish {
            Wish::Upgrade(_) => Ok(all.into()),
            Wish::Back | Wish::Finish => Err(Refusal::Nothing),
        };
    };
    let Record { from, to, phase, .. } = *record;
    match wish {
        Wish::Upgrade(wanted) if wanted != to => Err(Refusal::Another { from, to, phase }),
        Wish::Upgrade(_) => Ok(match phase {
            // Some are down and others not, and one of those may lead by now.
            Phase::Stopping => [&[GoBack], &all[..]].concat(),
            Phase::Stopped => all[2..].into(),
            Phase::Upgraded | Phase::Opening => all[3..].into(),
            Phase::Opened => all[4..].into(),
            Phase::Done => Vec::new(),
        }),
        Wish::Back if phase < Phase::Opening => Ok(vec![GoBack]),
        Wish::Back => match touched {
            Touched::Written => {
                Err(Refusal::Written { from, to, since: record.opened.unwrap_or(record.stopped) })
            }
            Touched::Started if record.transfer == Transfer::Link => Err(Refusal::Linked { from, to }),
            Touched::Started | Touched::Never => Ok(vec![GoBack]),
        },
        Wish::Finish if phase == Phase::Done => Ok(vec![Finish]),
        Wish::Finish => Err(Refusal::Unfinished { to, phase }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::control;
    use super::*;
    use std::collections::BTreeMap;

    fn major(number: u16) -> PgMajor {
        number.try_into().unwrap()
    }

    fn record(phase: Phase, transfer: Transfer) -> Record {
        Record {
            from: major(15),
            to: major(17),
            phase,
            transfer,
            primary: "pg-1".parse().unwrap(),
            stopped: Timestamp::UNIX_EPOCH,
            opened: None,
            store: BTreeMap::new(),
            fresh: None,
        }
    }

    fn told(record: Option<&Record>, wish: Wish, touched: Touched) -> String {
        match course(record, wish, touched) {
            Ok(steps) => format!("{steps:?}"),
            Err(refusal) => format!("no: {refusal}\n  {}", refusal.next_step()),
        }
    }

    #[test]
    fn the_same_command_goes_on_from_each_phase() {
        let wish = Wish::Upgrade(major(17));
        let all = "[Check, Stop, Upgrade, Open, Analyze, Replicas]";
        assert_eq!(told(None, wish, Touched::Never), all);
        for (phase, expected) in [
            (Phase::Stopping, "[GoBack, Check, Stop, Upgrade, Open, Analyze, Replicas]"),
            (Phase::Stopped, "[Upgrade, Open, Analyze, Replicas]"),
            (Phase::Upgraded, "[Open, Analyze, Replicas]"),
            (Phase::Opening, "[Open, Analyze, Replicas]"),
            (Phase::Opened, "[Analyze, Replicas]"),
            (Phase::Done, "[]"),
        ] {
            assert_eq!(told(Some(&record(phase, Transfer::Copy)), wish, Touched::Written), expected);
        }
        insta::assert_snapshot!(
            told(Some(&record(Phase::Upgraded, Transfer::Copy)), Wish::Upgrade(major(18)), Touched::Never),
            @r"
        no: an upgrade from PostgreSQL 15 to 17 is under way: it had come so far that the data were upgraded, and nothing was started yet
          Go on with it (`pgfleet upgrade-major --to 17`) or give it up (`--back`).
        "
        );
    }

    #[test]
    fn there_is_a_way_back_until_something_was_written() {
        for (phase, transfer, touched, may) in [
            (Phase::Stopping, Transfer::Copy, Touched::Never, true),
            (Phase::Stopped, Transfer::Link, Touched::Never, true),
            (Phase::Upgraded, Transfer::Link, Touched::Never, true),
            (Phase::Opening, Transfer::Copy, Touched::Never, true),
            (Phase::Opening, Transfer::Copy, Touched::Started, true),
            (Phase::Opening, Transfer::Clone, Touched::Written, false),
            (Phase::Opening, Transfer::Link, Touched::Never, true),
            (Phase::Opening, Transfer::Link, Touched::Started, false),
            (Phase::Opened, Transfer::Copy, Touched::Started, true),
            (Phase::Done, Transfer::Copy, Touched::Written, false),
        ] {
            let steps = course(Some(&record(phase, transfer)), Wish::Back, touched);
            assert_eq!(steps == Ok(vec![Step::GoBack]), may, "{phase:?} {transfer:?} {touched:?}: {steps:?}");
        }
        insta::assert_snapshot!(
            told(Some(&record(Phase::Opened, Transfer::Copy)), Wish::Back, Touched::Written), @r"
        no: PostgreSQL 17 has taken writes since 1970-01-01T00:00:00Z: the old data of PostgreSQL 15 lack them
          To have the old version again, restore a backup into a cluster of its own, or dump and load.
        ");
        assert_eq!(course(None, Wish::Back, Touched::Never), Err(Refusal::Nothing));
    }

    #[test]
    fn old_data_go_only_when_all_is_done() {
        let finish = |phase| course(Some(&record(phase, Transfer::Copy)), Wish::Finish, Touched::Written);
        assert_eq!(finish(Phase::Done), Ok(vec![Step::Finish]));
        assert!(finish(Phase::Opened).is_err());
        assert_eq!(course(None, Wish::Finish, Touched::Never), Err(Refusal::Nothing));
    }

    #[test]
    fn the_control_file_tells_whether_anybody_wrote() {
        let fresh = control("shut down", "0/50", "0:741");
        let since = |now: Control| Touched::since(&fresh, &now);
        assert_eq!(since(fresh.clone()), Touched::Never);
        assert_eq!(since(control("shut down", "0/60", "0:741")), Touched::Started);
        assert_eq!(since(control("in production", "0/60", "0:742")), Touched::Written);
    }
}
