//! PostgreSQL as far as it matters: processes that start, stop and promote in their own time, and a log
//! that is copied record by record.

use super::world::*;

impl World {
    /// Begins an action on the server.
    pub(super) fn serve(&mut self, node: Index, action: Action) -> Result<(), String> {
        let slow = self.nodes[node].slow;
        let budget = fencing::stop_budget(self.plan.settings.ttl);
        match &action {
            Action::Promote | Action::Start(StartAs::Primary(_))
                if self.store.leader().is_none_or(|(name, _)| *name != self.nodes[node].name) =>
            {
                return Err(format!("n{node} begins {action:?} and {:?} leads", self.store.leader()));
            }
            Action::Follow(name) | Action::Start(StartAs::Standby(Some(name))) => {
                let leader = self.index(name).expect("a member of the world");
                let (mine, theirs) = (&self.nodes[node].pg.log, &self.nodes[leader].pg.log);
                if self.writable(leader) && common(mine, theirs) < mine.len() {
                    return Err(format!("n{node} follows n{leader} with a history of its own"));
                }
            }
            Action::Clone(_) => {
                let settings = &self.plan.settings;
                let allowed = settings.remove_data_on_rewind_failure || settings.remove_data_on_divergence;
                if self.nodes[node].pg.identifier.is_some() && !allowed {
                    return Err(format!("n{node} replaces its data unasked"));
                }
            }
            _ => {}
        }
        let agent = self.agent(node);
        agent.operation += 1;
        agent.seen.busy.server = Some(action.clone());
        let operation = agent.operation;
        let life = self.nodes[node].pg.life;
        match action {
            Action::Start(how) => {
                let primary = matches!(how, StartAs::Primary(_));
                let upstream = match &how {
                    StartAs::Standby(Some(name)) => self.index(name),
                    _ => None,
                };
                let pg = &mut self.nodes[node].pg;
                pg.phase = Phase::Starting { primary };
                pg.upstream = upstream;
                pg.names = match how {
                    StartAs::Primary(names) => names,
                    StartAs::Standby(_) => SyncNames::default(),
                };
                let after = self.random.within(50, 300) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Started });
            }
            Action::Stop(StopMode::Fast) => {
                let after = self.random.within(30, 400) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Closed });
            }
            Action::Stop(StopMode::Immediate) => {
                let after = self.random.within(5, budget);
                self.push(after, node, Event::Server { life, what: Physical::Stopped });
            }
            Action::Promote => {
                let after = self.random.within(20, 150) * slow;
                self.push(after, node, Event::Server { life, what: Physical::Promoted });
            }
            Action::Follow(name) => {
                let upstream = self.index(&name);
                if self.nodes[node].pg.phase == Phase::Standby {
                    self.nodes[node].pg.upstream = upstream;
                    self.nodes[node].pg.streaming = false;
                }
                let after = self.random.within(3, 20);
                self.push(after, node, Event::Done { operation, ok: true });
            }
            Action::CheckDivergence(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(3, 30);
                self.push(after, node, Event::Compare { operation, with });
            }
            Action::Rewind(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(100, 600) * slow;
                self.push(after, node, Event::Rewind { operation, with });
            }
            Action::Clone(name) => {
                let with = self.index(&name).expect("a member of the world");
                let after = self.random.within(200, 900) * slow;
                self.push(after, node, Event::Clone { operation, with });
            }
            Action::Initdb => {
                let after = self.random.within(200, 900) * slow;
                self.push(after, node, Event::Initdb { operation });
            }
            Action::FindEnd => {
                let end = Lsn(self.nodes[node].pg.log.len() as u64);
                let local = self.local(node);
                self.agent(node).seen.wal_end = Some((end, local));
                let after = self.random.within(10, 60) * slow;
                self.push(after, node, Event::Done { operation, ok: true });
            }
            _ => self.push(10, node, Event::Done { operation, ok: true }),
        }
        Ok(())
    }

    /// What happens to the server itself, whoever began it.
    pub(super) fn physical(&mut self, node: Index, life: u64, what: Physical) -> Result<(), String> {
        if self.nodes[node].pg.life != life || !self.nodes[node].up {
            return Ok(());
        }
        match what {
            Physical::Started => {
                let Phase::Starting { primary } = self.nodes[node].pg.phase else { return Ok(()) };
                if primary {
                    self.survived(node)?;
                }
                let pg = &mut self.nodes[node].pg;
                pg.phase = if primary { Phase::Primary } else { Phase::Standby };
                pg.closes_as = if primary { ControlState::InProduction } else { ControlState::Recovery };
                self.complete(node, |action| matches!(action, Action::Start(_)), true);
            }
            Physical::Promoted => {
                if self.nodes[node].pg.phase != Phase::Standby {
                    return Ok(());
                }
                self.survived(node)?;
                self.promotions += 1;
                let timeline = self.nodes[node].pg.timeline + 1;
                let record = self.record(timeline);
                let pg = &mut self.nodes[node].pg;
                pg.timeline = timeline;
                pg.log.push(record);
                pg.phase = Phase::Primary;
                pg.upstream = None;
                pg.streaming = false;
                pg.closes_as = ControlState::InProduction;
                self.complete(node, |action| *action == Action::Promote, true);
            }
            Physical::Closed => match self.nodes[node].pg.phase {
                Phase::Primary => {
                    let record = self.record(self.nodes[node].pg.timeline);
                    let pg = &mut self.nodes[node].pg;
                    pg.closing_at = Lsn(pg.log.len() as u64);
                    pg.closes_as = ControlState::ShutDown;
                    pg.log.push(record);
                    pg.phase = Phase::Closing;
                    self.unacknowledged[node].clear();
                    let after = self.random.within(15, 80);
                    self.push(after, node, Event::Server { life, what: Physical::Stopped });
                }
                Phase::Standby | Phase::Starting { .. } => {
                    return self.physical(node, life, Physical::Stopped);
                }
                _ => {}
            },
            Physical::Stopped => {
                self.end_server(node);
                self.complete(node, |action| matches!(action, Action::Stop(_)), true);
            }
        }
        self.step_after(node, 0);
        Ok(())
    }

    /// In synchronous modes, who becomes writable has all that was acknowledged.
    pub(super) fn survived(&self, node: Index) -> Result<(), String> {
        if self.plan.settings.sync == SyncMode::Off {
            return Ok(());
        }
        let log = &self.nodes[node].pg.log;
        match self
            .acknowledged
            .iter()
            .find(|(place, id)| log.get(*place).is_none_or(|record| record.id != *id))
        {
            Some(lost) => Err(format!("n{node} becomes primary without the acknowledged {lost:?}")),
            None => Ok(()),
        }
    }

    pub(super) fn end_server(&mut self, node: Index) {
        let pg = &mut self.nodes[node].pg;
        pg.phase = Phase::Stopped;
        pg.control = Control { state: pg.closes_as, timeline: pg.timeline, checkpoint: pg.closing_at };
        pg.life += 1;
        pg.streaming = false;
        pg.names = SyncNames::default();
        self.unacknowledged[node].clear();
    }

    pub(super) fn end_server_hard(&mut self, node: Index) {
        self.end_server(node);
        self.complete(node, |action| !matches!(action, Action::Stop(_)), false);
        self.complete(node, |action| matches!(action, Action::Stop(_)), true);
        self.step_after(node, 0);
    }

    pub(super) fn replicate(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(upstream) = self.nodes[node].pg.upstream else { continue };
            let before = self.nodes[node].pg.streaming;
            let sends =
                matches!(self.nodes[upstream].pg.phase, Phase::Primary | Phase::Standby | Phase::Closing);
            let mine = &self.nodes[node].pg.log;
            let theirs = &self.nodes[upstream].pg.log;
            // PostgreSQL itself refuses a standby whose history is no prefix.
            let fits = common(mine, theirs) == mine.len();
            let streams =
                self.nodes[node].pg.phase == Phase::Standby && sends && fits && self.linked(node, upstream);
            if streams {
                let missing = theirs[mine.len()..].to_vec();
                let take = if self.random.one_in(4) {
                    self.random.within(0, missing.len() as u64 + 1) as usize
                } else {
                    missing.len()
                };
                let pg = &mut self.nodes[node].pg;
                pg.log.extend_from_slice(&missing[..take]);
                pg.timeline = pg.log.last().map_or(1, |record| record.timeline);
            }
            self.nodes[node].pg.streaming = streams;
            if before != streams {
                self.step_after(node, 1);
                self.step_after(upstream, 1);
            }
        }
        self.acknowledge();
    }

    pub(super) fn write(&mut self) {
        for node in 0..self.nodes.len() {
            if self.writable(node) {
                let record = self.record(self.nodes[node].pg.timeline);
                let pg = &mut self.nodes[node].pg;
                pg.log.push(record);
                self.unacknowledged[node].push(pg.log.len() - 1);
            }
        }
        self.acknowledge();
    }

    /// Clients hear of the commits that enough standbys have.
    pub(super) fn acknowledge(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.writable(node) {
                continue;
            }
            let names = &self.nodes[node].pg.names;
            let mut reached: Vec<usize> = (0..self.nodes.len())
                .filter(|other| {
                    let pg = &self.nodes[*other].pg;
                    pg.upstream == Some(node)
                        && pg.streaming
                        && names.names.contains(self.nodes[*other].name.as_str())
                })
                .map(|other| self.nodes[other].pg.log.len())
                .collect();
            reached.sort_unstable_by(|a, b| b.cmp(a));
            let end = match names.count {
                0 => usize::MAX,
                count => reached.get(count - 1).copied().unwrap_or(0),
            };
            let log = &self.nodes[node].pg.log;
            let waiting = std::mem::take(&mut self.unacknowledged[node]);
            let (done, still): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(|place| *place < end);
            self.acknowledged.extend(done.into_iter().map(|place| (place, log[place].id)));
            self.unacknowledged[node] = still;
        }
    }

    pub(super) fn record(&mut self, timeline: Timeline) -> Record {
        self.next_record += 1;
        Record { timeline, id: self.next_record }
    }

    pub(super) fn is_primary_at(&self, node: Index) -> bool {
        self.writable(node)
    }
}
