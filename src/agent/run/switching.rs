//! Switchovers and failovers that an operator asks for: written to the store, and seen through.

use super::Runtime;
use crate::{
    agent::{
        api::Outcome,
        clock::BootTime,
        core::Cluster,
        dcs::{Failure, Revision, Store},
    },
    contract::{FailoverDocument, SwitchoverRequest},
    model::MemberName,
};
use std::time::Duration;
use tokio::sync::oneshot;

const UNWRITTEN: &str = "the store did not take the wish for another leader; ask again";

/// What somebody asked for, which decides the words of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Switchover,
    Failover,
}

impl Change {
    /// The thing, and what was done, within a sentence and at its beginning.
    fn words(self) -> [&'static str; 3] {
        match self {
            Change::Switchover => ["Switchover", "switched", "Switched"],
            Change::Failover => ["Failover", "failed", "Failed"],
        }
    }
}

/// A switchover or failover that somebody waits for.
pub struct Switching {
    reply: oneshot::Sender<Outcome>,
    change: Change,
    from: Option<MemberName>,
    candidate: Option<String>,
    /// Whether the wish was written.
    told: oneshot::Receiver<Result<Option<Revision>, Failure>>,
    /// The wish has been seen in the store.
    seen: bool,
    ends: BootTime,
}

impl<S: Store> Runtime<S> {
    pub(super) fn switch_over(
        &mut self,
        change: Change,
        request: SwitchoverRequest,
        reply: oneshot::Sender<Outcome>,
    ) {
        let expected = self.snapshot.as_ref().and_then(|snapshot| Some(snapshot.failover.as_ref()?.revision));
        let from = self.seen.cluster.as_ref().and_then(|view| Some(view.leader.as_ref()?.name.clone()));
        let scheduled = request.scheduled_at.is_some();
        let document = FailoverDocument {
            leader: request.leader,
            member: request.candidate.clone(),
            scheduled_at: request.scheduled_at,
        };
        let store = self.store.clone();
        let (written, told) = oneshot::channel();
        tokio::spawn(async move {
            let _ = written.send(store.write_failover(expected, Some(&document)).await);
        });
        if scheduled {
            tokio::spawn(async move {
                let outcome = match told.await {
                    Ok(Ok(_)) => Outcome::Accepted("Switchover scheduled".to_owned()),
                    _ => Outcome::Failed(UNWRITTEN.to_owned()),
                };
                let _ = reply.send(outcome);
            });
            return;
        }
        let wait = Duration::from_secs(2 * self.dynamic.loop_wait.max(10));
        self.switching.push(Switching {
            reply,
            change,
            from,
            candidate: request.candidate,
            told,
            seen: false,
            ends: BootTime::now().after(wait),
        });
    }

    pub(super) fn cancel_switchover(&self, reply: oneshot::Sender<Outcome>) {
        let known = self.snapshot.as_ref().and_then(|snapshot| snapshot.failover.clone());
        let scheduled = known.filter(|known| known.value.scheduled_at.is_some());
        let store = self.store.clone();
        tokio::spawn(async move {
            let outcome = match scheduled {
                None => Outcome::NotFound("no switchover is scheduled".to_owned()),
                Some(known) => match store.write_failover(Some(known.revision), None).await {
                    Ok(_) => Outcome::Done("scheduled switchover deleted".to_owned()),
                    Err(Failure::Lost(_)) => Outcome::Conflict("it was changed by another".to_owned()),
                    Err(Failure::Unreachable(why)) => Outcome::StoreFailed(why.to_string()),
                },
            };
            let _ = reply.send(outcome);
        });
    }

    /// Answers those whose switchover or failover has come to an end.
    pub(super) fn follow_switchovers(&mut self) {
        let Some(cluster) = &self.seen.cluster else { return };
        let now = BootTime::now();
        for mut switching in std::mem::take(&mut self.switching) {
            match switching.outcome(cluster, now) {
                Some(outcome) => drop(switching.reply.send(outcome)),
                None => self.switching.push(switching),
            }
        }
    }
}

impl Switching {
    fn outcome(&mut self, cluster: &Cluster, now: BootTime) -> Option<Outcome> {
        if let Ok(Err(_)) = self.told.try_recv() {
            return Some(Outcome::Failed(UNWRITTEN.to_owned()));
        }
        self.seen |= cluster.failover.is_some();
        let leader = cluster.leader.as_ref().map(|leader| &leader.name);
        let leads =
            leader.filter(|name| cluster.member(name).is_some_and(|member| member.running && member.primary));
        let [noun, done, begins] = self.change.words();
        match leads {
            Some(name) if Some(name) != self.from.as_ref() => {
                let instead = self.candidate.as_ref().filter(|candidate| *candidate != name.as_str());
                Some(Outcome::Done(match instead {
                    None => format!("Successfully {done} over to \"{name}\""),
                    Some(wanted) => format!("{begins} over to \"{name}\" instead of \"{wanted}\""),
                }))
            }
            Some(_) if self.seen && cluster.failover.is_none() => {
                Some(Outcome::Failed(format!("{noun} failed: the leader found no member that can take over")))
            }
            _ if now >= self.ends => Some(Outcome::Failed(format!("{noun} status unknown"))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::core::{Leader, Member};

    fn led_by(name: &str) -> Cluster {
        let name: MemberName = name.parse().unwrap();
        let (running, primary, nofailover, nosync, clonefrom) = (true, true, false, false, false);
        let member =
            Member { name: name.clone(), running, primary, timeline: None, nofailover, nosync, clonefrom };
        Cluster { leader: Some(Leader { name, term: 7 }), members: vec![member], ..Cluster::default() }
    }

    #[test]
    fn the_answer_says_how_it_ended() {
        use Change::{Failover, Switchover};
        for (change, from, leader, expected) in [
            (Switchover, Some("a"), "b", r#"Successfully switched over to "b""#),
            (Switchover, Some("a"), "c", r#"Switched over to "c" instead of "b""#),
            (Failover, None, "b", r#"Successfully failed over to "b""#),
            (Failover, Some("a"), "c", r#"Failed over to "c" instead of "b""#),
            (Failover, Some("a"), "a", "Failover failed: the leader found no member that can take over"),
        ] {
            let (reply, _) = oneshot::channel();
            let (_written, told) = oneshot::channel();
            let mut switching = Switching {
                reply,
                change,
                from: from.map(|name| name.parse().unwrap()),
                candidate: Some("b".to_owned()),
                told,
                seen: true,
                ends: BootTime(1_000),
            };
            match switching.outcome(&led_by(leader), BootTime(0)) {
                Some(Outcome::Done(said) | Outcome::Failed(said)) => assert_eq!(said, expected),
                other => panic!("{other:?}"),
            }
            assert_eq!(switching.outcome(&Cluster::default(), BootTime(0)), None, "it may yet come");
        }
    }
}
