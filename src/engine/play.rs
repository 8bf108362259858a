//! One play on one batch of its hosts: segments in order, all hosts at once, handlers at the end.

use super::{
    host_run::{Booking, Carrying, HostRun, Stopped},
    lower::{Item, Lowering, lower},
    run::{Ended, Engine, carrying},
    segment::{self, Segment},
    variables,
};
use crate::{
    model::HostName,
    playbook::{Play, Playbook, Task},
};
use futures_util::future::join_all;
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// The hosts of a run, by name.
pub type Runs<'a> = IndexMap<HostName, HostRun<'a>>;

pub struct PlayRun<'e, 'a> {
    pub engine: &'e Engine<'a>,
    pub playbook: &'e Playbook,
    pub play: &'e Play,
    /// The batch of hosts under way.
    pub hosts: Vec<HostName>,
    /// Counts what is sent to hosts at the same time, over the whole run.
    pub waves: &'e AtomicU32,
    /// The run will change what differs, even if this only looks: tasks see what they will see then.
    pub in_earnest: bool,
}

impl<'a> PlayRun<'_, 'a> {
    pub async fn run(&self, runs: &mut Runs<'a>) -> Ended {
        for name in &self.hosts {
            if let Some(run) = runs.get_mut(name) {
                run.variables = self.variables(run);
            }
        }
        self.tasks(&self.play.tasks, &self.hosts, runs).await?;
        if self.engine.cancel.is_cancelled() {
            return Ok(());
        }
        self.handlers(runs).await
    }

    /// Carries out tasks in order on those of the batch's hosts that are named.
    pub async fn tasks(&self, tasks: &[Task], hosts: &[HostName], runs: &mut Runs<'a>) -> Ended {
        let selected = tasks.iter().filter(|task| self.selected(task));
        for segment in segment::cut(selected) {
            if self.engine.cancel.is_cancelled() {
                return Ok(());
            }
            match segment {
                Segment::Together(tasks) => self.together(&tasks, None, hosts, runs).await?,
                Segment::Alone(task) => self.alone(task, hosts, runs).await?,
                Segment::Control(task) => Box::pin(self.control(task, hosts, runs)).await?,
            }
        }
        Ok(())
    }

    /// Sends several tasks to every host as one batch, to all hosts at the same time.
    async fn together(
        &self,
        tasks: &[&Task],
        settles: Option<&str>,
        hosts: &[HostName],
        runs: &mut Runs<'a>,
    ) -> Ended {
        let stop = self.engine.cancel.child_token();
        let with = carrying(self.engine, &self.play.name, self.engine.options.mode, self.wave(), &stop);
        let sent = runs
            .values_mut()
            .filter(|run| hosts.contains(&run.host.name))
            .map(|run| self.batch(run, tasks, settles, &with));
        ended(join_all(sent).await)
    }

    async fn batch(
        &self,
        run: &mut HostRun<'a>,
        tasks: &[&Task],
        settles: Option<&str>,
        with: &Carrying<'_>,
    ) -> Result<(), Stopped> {
        let mut steps = Vec::new();
        let mut places = Vec::new();
        let mut registering: Option<(String, Vec<Result<u32, Value>>)> = None;
        for task in tasks {
            let items = self.lowered(run, task, settles)?;
            if let Some(name) = &task.register {
                let ids = items.iter().map(|item| match item {
                    Item::Step { step, .. } => Ok(step.id),
                    Item::Skipped { .. } => Err(super::host_run::skipped()),
                });
                registering = Some((name.clone(), ids.collect()));
            }
            for item in items {
                match item {
                    Item::Step { step, .. } => {
                        places.push((with.mask.text(&step.name), &task.at));
                        steps.push(*step);
                    }
                    Item::Skipped { name } => run.skip(&name, with.sink),
                }
            }
        }
        let outcomes = run.carry_out(steps, Booking::AsTheyCome, with).await.map_err(|mut stopped| {
            let place = places.iter().find(|(name, _)| *name == stopped.step);
            stopped.at = stopped.at.take().or_else(|| place.map(|(_, at)| (*at).clone()));
            stopped
        })?;
        if let Some((name, ids)) = registering {
            let looped = tasks.last().is_some_and(|task| task.r#loop.is_some());
            let results = ids
                .into_iter()
                .map(|id| match id {
                    Ok(id) => {
                        outcomes.get(&id).map_or_else(super::host_run::skipped, super::host_run::registered)
                    }
                    Err(skipped) => skipped,
                })
                .collect();
            run.register(&name, results, looped);
        }
        Ok(())
    }

    /// Pays what is owed: handlers in their order, each on the hosts that owe it.
    pub async fn handlers(&self, runs: &mut Runs<'a>) -> Ended {
        for handler in &self.play.handlers {
            let owing: Vec<HostName> = self
                .hosts
                .iter()
                .filter(|name| runs.get(*name).is_some_and(|run| run.owed.contains(&handler.name)))
                .cloned()
                .collect();
            // With `throttle`, hosts pay one after the other: a restart must not take all at once.
            let at_once = handler.throttle.map_or(owing.len(), |limit| limit.max(1) as usize).max(1);
            for some in owing.chunks(at_once) {
                self.together(&[handler], Some(&handler.name), some, runs).await?;
            }
            for name in &owing {
                if let Some(run) = runs.get_mut(name) {
                    run.owed.remove(&handler.name);
                }
            }
            if self.engine.cancel.is_cancelled() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The task as steps for this host.
    pub fn lowered(
        &self,
        run: &mut HostRun<'a>,
        task: &Task,
        settles: Option<&str>,
    ) -> Result<Vec<Item>, Stopped> {
        let handlers = |topic: &str| {
            let answering = self.play.handlers.iter().filter(|handler| handler.answers_to(topic));
            answering.map(|handler| handler.name.clone()).collect()
        };
        let with = Lowering {
            templates: self.engine.templates,
            handlers: &handlers,
            settles,
            r#become: task.r#become.or(self.play.r#become).unwrap_or(true),
        };
        let items = lower(task, &run.variables, &mut run.next_id, &mut run.contents, &with)
            .map_err(|diagnostic| run.mistaken(diagnostic, &task.name, &self.play.name))?;
        if items.iter().any(|item| self.tells(item, task)) {
            run.tally.telling.push(task.name.clone());
        }
        Ok(items)
    }

    /// Whether a secret has come into the step's name by rendering it.
    fn tells(&self, item: &Item, task: &Task) -> bool {
        let Item::Step { step, .. } = item else { return false };
        self.engine.mask.hides(&step.name) && !self.engine.mask.hides(&task.name)
    }

    /// A number for what is now sent to hosts at the same time.
    pub fn wave(&self) -> u32 {
        self.waves.fetch_add(1, Ordering::Relaxed)
    }

    fn selected(&self, task: &Task) -> bool {
        task.selected(&self.engine.options.tags, &self.engine.options.skip_tags)
    }

    /// What the host's tasks see in this play: the inventory's, the play's, what was registered, `-e` last.
    fn variables(&self, run: &HostRun<'_>) -> Map<String, Value> {
        let mut known = run.known.clone();
        let mut layers = self.play.vars.clone();
        variables::overlay(&mut layers, &self.engine.options.vars);
        variables::overlay(&mut layers, self.engine.inventory.extra_vars());
        known.insert("ansible_play_hosts".to_owned(), json!(self.hosts));
        known.insert("ansible_check_mode".to_owned(), json!(!self.in_earnest));
        let mut known = variables::resolve(layers, known, self.engine.templates, &self.play.at);
        variables::overlay(&mut known, &run.registered);
        variables::overlay(&mut known, self.engine.inventory.extra_vars());
        known
    }
}

impl HostRun<'_> {
    /// Stores what a task registers: the one result, or with a loop all of them under `results`.
    pub fn register(&mut self, name: &str, mut results: Vec<Value>, looped: bool) {
        let value = if looped {
            let any = |key: &str| results.iter().any(|result| result[key] == Value::Bool(true));
            json!({"changed": any("changed"), "failed": any("failed"), "results": results})
        } else {
            results.pop().unwrap_or(Value::Null)
        };
        self.remember(name, value);
    }

    /// Makes a variable known to the rest of the run.
    pub fn remember(&mut self, name: &str, value: Value) {
        self.registered.insert(name.to_owned(), value.clone());
        self.variables.insert(name.to_owned(), value);
    }
}

/// Gathers the failures of hosts that were worked on at the same time.
pub fn ended(results: Vec<Result<(), Stopped>>) -> Ended {
    let failures: Vec<Stopped> = results.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}
