//! Looks at plays before they are run. What is right already is neither gone through host by host, nor play after
//! play: a run that has nothing to do ends after one look, however many hosts there are and however far away they are.

use super::{
    event::Event,
    host_run::HostRun,
    play::{PlayRun, Runs},
    report::{PlayTime, Report, Tally},
    run::{Engine, Options, Scheduled},
};
use crate::{
    model::HostName,
    playbook::{Play, Playbook},
    remote::protocol::Mode,
};
use futures_util::future::join_all;
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

/// A play in which nothing differs: what was found, and not yet told to anybody.
pub struct Looked {
    hosts: Vec<(HostName, Found)>,
    events: Vec<Event>,
    took: Duration,
}

/// What is known of a host after a look.
struct Found {
    tally: Tally,
    registered: Map<String, Value>,
}

/// Plays, by their number, of hosts that have none in common with those of other lanes.
type Lane = (BTreeSet<HostName>, Vec<usize>);

impl<'a> Engine<'a> {
    /// Looks at plays from the first on, until something differs somewhere, and puts what was found into the report.
    /// Gives how many are over with that.
    pub(super) async fn settled(
        &self,
        playbook: &Playbook,
        plays: &[Scheduled<'_, 'a>],
        runs: &mut Runs<'a>,
        report: &mut Report,
    ) -> usize {
        if runs.values().any(|run| run.worker.hello.interrupted) {
            return 0;
        }
        let mut over = 0;
        for stage in stages(plays) {
            let mut registered: IndexMap<HostName, Map<String, Value>> =
                runs.iter().map(|(name, run)| (name.clone(), run.registered.clone())).collect();
            let lanes = stage.iter().map(|(hosts, numbers)| {
                let mut own = Runs::new();
                for host in hosts {
                    own.extend(runs.shift_remove_entry(host));
                }
                self.lane(playbook, plays, numbers, own)
            });
            let lanes = join_all(lanes.collect::<Vec<_>>()).await;
            let mut looked: BTreeMap<usize, Looked> = BTreeMap::new();
            for (own, found) in lanes {
                runs.extend(own);
                looked.extend(found);
            }
            runs.sort_by_cached_key(|name, _| self.inventory.hosts.get_index_of(name));
            let end = over + stage.iter().map(|(_, numbers)| numbers.len()).sum::<usize>();
            while let Some(found) = looked.remove(&over) {
                registered
                    .extend(found.hosts.iter().map(|(name, host)| (name.clone(), host.registered.clone())));
                self.book(plays[over].0, found, runs, report);
                over += 1;
            }
            if over < end {
                // What plays register that are not over yet, they register anew when their turn has come.
                runs.iter_mut().for_each(|(name, run)| {
                    run.registered = registered.swap_remove(name).unwrap_or_default()
                });
                return over;
            }
        }
        over
    }

    /// Looks at plays one after the other, on hosts that nobody else looks at, until something differs.
    async fn lane(
        &self,
        playbook: &Playbook,
        plays: &[Scheduled<'_, 'a>],
        numbers: &[usize],
        mut runs: Runs<'a>,
    ) -> (Runs<'a>, Vec<(usize, Looked)>) {
        let mut looked = Vec::new();
        for number in numbers {
            let (play, batches) = &plays[*number];
            let hosts = batches.iter().flatten().map(|host| host.name.clone()).collect();
            match self.look(playbook, play, hosts, &mut runs).await {
                Some(found) => looked.push((*number, found)),
                None => break,
            }
        }
        (runs, looked)
    }

    /// Looks at all hosts of a play at the same time, changing nothing. `None` where something differs, is awaited or
    /// fails; then it is as if nobody had looked.
    pub(super) async fn look(
        &self,
        playbook: &Playbook,
        play: &Play,
        hosts: Vec<HostName>,
        runs: &mut Runs<'a>,
    ) -> Option<Looked> {
        let owes = |run: &HostRun<'_>| play.handlers.iter().any(|handler| run.owed.contains(&handler.name));
        if self.cancel.is_cancelled() || hosts.iter().any(|name| runs.get(name).is_some_and(owes)) {
            return None;
        }
        let started = Instant::now();
        let before: Vec<_> =
            runs.values_mut().map(|run| (std::mem::take(&mut run.tally), run.registered.clone())).collect();
        let in_earnest = self.options.mode == Mode::Apply;
        let options = Options { mode: Mode::Check, diff: false, ..Options::clone(&self.options) };
        let (sink, mut told) = tokio::sync::mpsc::unbounded_channel();
        let look = Engine {
            inventory: self.inventory,
            templates: self.templates,
            options: Arc::new(options),
            sink,
            mask: self.mask.clone(),
            cancel: self.cancel.clone(),
        };
        let waves = AtomicU32::new(0);
        let looked =
            PlayRun { engine: &look, playbook, play, hosts, waves: &waves, in_earnest }.run(runs).await;
        let quiet = |run: &HostRun<'_>| run.tally.changes.is_empty() && !run.tally.awaiting;
        let all_right = looked.is_ok() && runs.values().all(quiet) && !self.cancel.is_cancelled();
        let mut hosts = Vec::new();
        for ((name, run), (tally, registered)) in runs.iter_mut().zip(before) {
            let tally = std::mem::replace(&mut run.tally, tally);
            hosts.push((name.clone(), Found { tally, registered: run.registered.clone() }));
            if !all_right {
                run.registered = registered;
                run.owed.retain(|debt| !play.handlers.iter().any(|handler| handler.name == *debt));
            }
        }
        let events = std::iter::from_fn(|| told.try_recv().ok()).collect();
        all_right.then(|| Looked { hosts, events, took: started.elapsed() })
    }

    /// Takes a play in which nothing differs for one that was run.
    fn book(&self, play: &Play, looked: Looked, runs: &mut Runs<'a>, report: &mut Report) {
        let concerned = looked.hosts.iter().filter(|(_, host)| host.tally.steps() > 0);
        let mut hosts: Vec<HostName> = concerned.map(|(name, _)| name.clone()).collect();
        hosts.sort_by_key(|name| self.inventory.hosts.get_index_of(name));
        let _ = self.sink.send(Event::PlayStarted { name: play.name.clone(), hosts });
        let took = looked.took;
        self.take_in(looked, runs);
        report.plays.push(PlayTime { name: play.name.clone(), seconds: took.as_secs_f64() });
        let _ = self.sink.send(Event::PlayFinished { name: play.name.clone(), elapsed: took });
    }

    /// Tells and counts what a look has found.
    pub(super) fn take_in(&self, looked: Looked, runs: &mut Runs<'a>) {
        for event in looked.events {
            let _ = self.sink.send(event);
        }
        for (name, host) in looked.hosts {
            if let Some(run) = runs.get_mut(&name) {
                run.tally.extend_unchanged(host.tally);
            }
        }
    }
}

/// Cuts plays into stages that follow each other, each of lanes that can be gone through at the same time.
fn stages(plays: &[Scheduled<'_, '_>]) -> Vec<Vec<Lane>> {
    let hosts = |(_, batches): &Scheduled<'_, '_>| -> BTreeSet<HostName> {
        batches.iter().flatten().map(|host| host.name.clone()).collect()
    };
    cut(plays.iter().map(hosts))
}

/// A play joins the lane of its very hosts, or begins one where no lane has any of them; else a new stage begins.
fn cut(plays: impl Iterator<Item = BTreeSet<HostName>>) -> Vec<Vec<Lane>> {
    let mut stages: Vec<Vec<Lane>> = Vec::new();
    for (number, hosts) in plays.enumerate() {
        let stage = stages.last_mut();
        let own =
            stage.filter(|lanes| lanes.iter().all(|(lane, _)| *lane == hosts || lane.is_disjoint(&hosts)));
        match own {
            None => stages.push(vec![(hosts, vec![number])]),
            Some(lanes) => match lanes.iter_mut().find(|(lane, _)| *lane == hosts) {
                Some((_, numbers)) => numbers.push(number),
                None => lanes.push((hosts, vec![number])),
            },
        }
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plays_of_different_hosts_are_looked_at_together() {
        let plays = ["a b c d", "a b c d", "a", "a", "b c", "d", "b", "b", "a b c d"];
        let set = |hosts: &str| hosts.split(' ').map(|host| host.parse().unwrap()).collect();
        let stages = cut(plays.iter().map(|hosts| set(hosts)));
        let numbers: Vec<Vec<Vec<usize>>> =
            stages.into_iter().map(|lanes| lanes.into_iter().map(|(_, numbers)| numbers).collect()).collect();
        assert_eq!(
            numbers,
            [vec![vec![0, 1]], vec![vec![2, 3], vec![4], vec![5]], vec![vec![6, 7]], vec![vec![8]],]
        );
    }
}
