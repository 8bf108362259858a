//! Whether this server's history is a prefix of another's.

use super::{
    ClusterState, ControlData, Error, History, Server, Session, Upstream, files, walsender::Walsender,
};
use crate::model::{Lsn, Timeline};

/// The end of the history that this server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It ends at `lsn`.
    End { timeline: Timeline, lsn: Lsn },
    /// It ends with the checkpoint record that begins at `checkpoint`: an orderly shutdown.
    Checkpoint { timeline: Timeline, checkpoint: Lsn },
    /// It ends somewhere after `lsn`: a primary that crashed.
    Beyond { timeline: Timeline, lsn: Lsn },
}

impl Position {
    /// Of a server that runs.
    pub fn of_session(session: &Session) -> Position {
        Position::End { timeline: session.timeline, lsn: session.position() }
    }

    fn timeline(self) -> Timeline {
        let (Position::End { timeline, .. }
        | Position::Checkpoint { timeline, .. }
        | Position::Beyond { timeline, .. }) = self;
        timeline
    }

    /// Of a server that does not run. A standby may hold more WAL than it has replayed: once it runs,
    /// look again.
    pub fn of_control(control: &ControlData) -> Position {
        let (timeline, checkpoint) = (control.timeline, control.checkpoint);
        match control.state {
            ClusterState::ShutDown => Position::Checkpoint { timeline, checkpoint },
            state if state.was_in_recovery() => {
                let (lsn, timeline) = control.min_recovery.unwrap_or((checkpoint, timeline));
                Position::End { timeline, lsn }
            }
            _ => Position::Beyond { timeline, lsn: checkpoint },
        }
    }
}

/// How this server's history relates to an upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    InSync,
    /// A prefix of the upstream's: it can stream.
    Behind,
    /// The same timeline, and the upstream has less of it.
    Ahead {
        upstream: Lsn,
    },
    /// It has something that the upstream has not: it must be rewound or copied anew. `switchpoint` is
    /// where the upstream left the last common timeline, as far as its history tells.
    Diverged {
        switchpoint: Option<Lsn>,
    },
    /// Another cluster altogether.
    OtherCluster,
    /// A primary that crashed: only crash recovery (which `pg_rewind` does by itself) will tell.
    Unknown,
}

/// Compares the end of our history with an upstream's timeline, the end of its WAL and its history. `own` are
/// the ancestors of our timeline, as far as they are known.
pub(super) fn compare(
    local: Position,
    own: Option<&History>,
    upstream_end: Lsn,
    upstream: &History,
) -> Divergence {
    if let Some(fork) = own.and_then(|own| own.fork(upstream)) {
        return Divergence::Diverged { switchpoint: Some(fork) };
    }
    let timeline = local.timeline();
    if timeline == upstream.timeline {
        return match local {
            Position::Beyond { .. } => Divergence::Unknown,
            Position::End { lsn, .. } if lsn > upstream_end => Divergence::Ahead { upstream: upstream_end },
            Position::End { lsn, .. } if lsn == upstream_end => Divergence::InSync,
            Position::Checkpoint { checkpoint, .. } if checkpoint >= upstream_end => {
                Divergence::Ahead { upstream: upstream_end }
            }
            _ => Divergence::Behind,
        };
    }
    let Some(switchpoint) = upstream.end_of(timeline) else {
        return Divergence::Diverged { switchpoint: None };
    };
    let diverged = Divergence::Diverged { switchpoint: Some(switchpoint) };
    match local {
        Position::End { lsn, .. } if lsn <= switchpoint => Divergence::Behind,
        // A record is received whole or not at all, and nothing follows a shutdown checkpoint: a
        // timeline that goes on behind its beginning goes on behind its end.
        Position::Checkpoint { checkpoint, .. } if checkpoint < switchpoint => Divergence::Behind,
        Position::Beyond { lsn, .. } if lsn < switchpoint => Divergence::Unknown,
        _ => diverged,
    }
}

impl Server {
    /// Asks `upstream` over a replication connection who it is, and compares its history with ours.
    /// Errors: the upstream cannot be reached in time, or our own position cannot be read.
    pub async fn divergence(&self, upstream: &Upstream) -> Result<Divergence, Error> {
        let facts = self.observe().await;
        let control = match facts.control {
            Some(control) => control,
            None => self.control_data().await?,
        };
        let local = match &facts.session {
            Some(session) => Position::of_session(session),
            None => Position::of_control(&control),
        };
        let settings = self.settings();
        let mut walsender = Walsender::connect(upstream, &settings.replication).await?;
        let system = walsender.identify_system().await?;
        if system.system_identifier != control.system_identifier {
            return Ok(Divergence::OtherCluster);
        }
        let history = walsender.timeline_history(system.timeline).await?;
        walsender.close().await;
        let own = self.own_history(local.timeline())?;
        Ok(compare(local, own.as_ref(), system.end, &history))
    }

    /// The ancestors of a timeline, where the data directory has them.
    fn own_history(&self, timeline: Timeline) -> Result<Option<History>, Error> {
        let path = self.settings().data_dir.join("pg_wal").join(format!("{timeline:08X}.history"));
        Ok(files::read(&path)?.map(|text| History::parse(timeline, &text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_histories() {
        use Divergence::*;
        let first = History { timeline: 1, switches: Vec::new() };
        let third = History::parse(3, "1 0/100 x\n2 0/200 y");
        let end = |timeline, lsn| Position::End { timeline, lsn: Lsn(lsn) };
        let checkpoint = |timeline, lsn| Position::Checkpoint { timeline, checkpoint: Lsn(lsn) };
        let beyond = |timeline, lsn| Position::Beyond { timeline, lsn: Lsn(lsn) };
        let at = |lsn| Diverged { switchpoint: Some(Lsn(lsn)) };
        for (local, upstream_end, upstream, expected) in [
            (end(1, 0x50), 0x50, &first, InSync),
            (end(1, 0x40), 0x50, &first, Behind),
            (end(1, 0x60), 0x50, &first, Ahead { upstream: Lsn(0x50) }),
            (checkpoint(1, 0x40), 0x50, &first, Behind),
            (checkpoint(1, 0x50), 0x50, &first, Ahead { upstream: Lsn(0x50) }),
            (beyond(1, 0x10), 0x50, &first, Unknown),
            (end(1, 0x100), 0x300, &third, Behind),
            (end(1, 0x101), 0x300, &third, at(0x100)),
            (end(2, 0x150), 0x300, &third, Behind),
            (end(2, 0x210), 0x300, &third, at(0x200)),
            // The shutdown checkpoint was received before the switch, or was not.
            (checkpoint(1, 0x90), 0x300, &third, Behind),
            (checkpoint(1, 0x100), 0x300, &third, at(0x100)),
            (beyond(2, 0x150), 0x300, &third, Unknown),
            (beyond(2, 0x200), 0x300, &third, at(0x200)),
            // Never an ancestor: a timeline of somebody else's promotion.
            (end(4, 0x250), 0x300, &third, Diverged { switchpoint: None }),
            (end(2, 0x50), 0x50, &first, Diverged { switchpoint: None }),
        ] {
            assert_eq!(
                compare(local, None, Lsn(upstream_end), upstream),
                expected,
                "{local:?} against {upstream:?}"
            );
        }
    }

    #[test]
    fn two_timelines_of_one_number_are_told_apart_by_where_they_begin() {
        let ours = History::parse(2, "1 0/120 x");
        let theirs = History::parse(2, "1 0/100 x");
        let local = Position::End { timeline: 2, lsn: Lsn(0x130) };
        let diverged = Divergence::Diverged { switchpoint: Some(Lsn(0x100)) };
        assert_eq!(compare(local, Some(&ours), Lsn(0x300), &theirs), diverged);
        assert_eq!(compare(local, Some(&theirs), Lsn(0x300), &theirs), Divergence::Behind);
        // A timeline later the difference is still there.
        let later = History::parse(3, "1 0/100 x\n2 0/200 y");
        assert_eq!(compare(local, Some(&ours), Lsn(0x300), &later), diverged);
        assert_eq!(compare(local, None, Lsn(0x300), &later), Divergence::Behind);
    }
}
