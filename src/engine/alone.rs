//! Tasks whose result the control machine judges: repeated until a condition holds, run once for all
//! hosts, or on another host.

use super::{
    host_run::{self, Booking, Carrying, HostRun, Stopped},
    lower::Item,
    play::{PlayRun, Runs, ended},
    run::{Ended, carrying},
    segment,
};
use crate::{
    engine::Event,
    model::HostName,
    playbook::Task,
    remote::protocol::{Failure, Mode, Outcome, Step, Verdict},
};
use futures_util::future::join_all;
use serde_json::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

impl<'a> PlayRun<'_, 'a> {
    /// Carries out a task that is judged here.
    pub async fn alone(&self, task: &Task, hosts: &[HostName], runs: &mut Runs<'a>) -> Ended {
        let hosts = if task.run_once { &hosts[..hosts.len().min(1)] } else { hosts };
        let stop = self.engine.cancel.child_token();
        if task.delegate_to.is_some() {
            for name in hosts {
                self.delegated(task, name, runs, self.wave(), &stop)
                    .await
                    .map_err(|stopped| vec![stopped])?;
            }
        } else {
            let wave = self.wave();
            let judged = runs
                .values_mut()
                .filter(|run| hosts.contains(&run.host.name))
                .map(|run| self.judged(run, None, task, wave, &stop));
            ended(join_all(judged).await)?;
        }
        if task.run_once
            && let (Some(name), Some(first)) = (&task.register, hosts.first())
            && let Some(value) = runs.get(first).and_then(|run| run.registered.get(name).cloned())
        {
            for other in &self.hosts {
                if let Some(run) = runs.get_mut(other) {
                    run.remember(name, value.clone());
                }
            }
        }
        Ok(())
    }

    /// Carries the task out on the host that `delegate_to` names, with this host's variables.
    async fn delegated(
        &self,
        task: &Task,
        name: &HostName,
        runs: &mut Runs<'a>,
        wave: u32,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let Some(index) = runs.get_index_of(name) else { return Ok(()) };
        let run = &runs[index];
        let to = task.delegate_to.as_deref().unwrap_or_default();
        let to = self
            .engine
            .templates
            .render(to, &run.variables, &task.at)
            .map_err(|diagnostic| run.mistaken(diagnostic, &task.name, &self.play.name))?;
        let Some(other) = runs.keys().position(|host| host.as_str() == to) else {
            let failure = Failure {
                message: format!("`delegate_to: {to}` names no host of this run"),
                next_step: Some("name a host of the inventory that a play of this run is for".to_owned()),
                ..Failure::default()
            };
            return Err(runs[index].failed(failure, &task.name, &self.play.name));
        };
        if other == index {
            return self.judged(&mut runs[index], None, task, wave, stop).await;
        }
        // Two different hosts of the same map: there is no other way than both.
        let Ok([own, hands]) = runs.get_disjoint_indices_mut([index, other]) else { return Ok(()) };
        self.judged(own.1, Some(hands.1), task, wave, stop).await
    }

    /// Carries out every item of the task on `hands` (the host's own where there are no others),
    /// judges it with the host's variables, and books and registers it.
    async fn judged(
        &self,
        run: &mut HostRun<'a>,
        mut hands: Option<&mut HostRun<'a>>,
        task: &Task,
        wave: u32,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let mode = segment::mode(task, self.engine.options.mode);
        let with = carrying(self.engine, &self.play.name, mode, wave, stop);
        let mut results = Vec::new();
        for item in self.lowered(run, task, None)? {
            match item {
                Item::Skipped { name } => {
                    run.skip(&name, &self.engine.sink);
                    results.push(host_run::skipped());
                }
                Item::Step { step, item } => {
                    let done = self.item(run, hands.as_deref_mut(), task, &step, item, &with).await;
                    results.push(done.map_err(|mut stopped| {
                        stopped.at.get_or_insert_with(|| task.at.clone());
                        stopped
                    })?);
                }
            }
        }
        if let Some(name) = &task.register {
            run.register(name, results, task.r#loop.is_some());
        }
        Ok(())
    }

    async fn item(
        &self,
        run: &mut HostRun<'a>,
        mut hands: Option<&mut HostRun<'a>>,
        task: &Task,
        step: &Step,
        item: Option<Value>,
        with: &Carrying<'_>,
    ) -> Result<Value, Stopped> {
        let attempts = if task.until.is_empty() { 1 } else { task.retries + 1 };
        let mut attempt = 1;
        loop {
            let outcomes = match &mut hands {
                Some(other) => {
                    other
                        .contents
                        .extend(run.contents.iter().map(|(digest, content)| (*digest, content.clone())));
                    other.carry_out(vec![step.clone()], Booking::ByCaller, with).await?
                }
                None => run.carry_out(vec![step.clone()], Booking::ByCaller, with).await?,
            };
            let Some(mut outcome) = outcomes.into_values().next() else {
                return Ok(host_run::skipped());
            };
            let satisfied = self.judge(run, task, item.as_ref(), &mut outcome)?;
            if !satisfied && attempt < attempts && self.engine.options.mode == Mode::Apply {
                let message = format!("{} (attempt {attempt} of {attempts})", step.name);
                let _ = self.engine.sink.send(Event::Waiting { host: run.host.name.clone(), message });
                attempt += 1;
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(task.delay_secs)) => continue,
                    () = with.stop.cancelled() => {}
                }
            }
            if !satisfied && self.engine.options.mode == Mode::Apply {
                outcome.verdict = Verdict::Failed(exhausted(task, attempts, &outcome));
            }
            // The hands note a debt when they change something; here it turned out that they did not.
            let unfounded = outcome.verdict == Verdict::Unchanged && !task.changed_when.is_empty();
            if unfounded && !step.notify.is_empty() && with.mode == Mode::Apply {
                let hands = hands.as_deref_mut().unwrap_or(run);
                hands.settle(&step.notify, with).await?;
            }
            if let Err(stopped) = run.book(step, &outcome, with) {
                with.stop.cancel();
                return Err(stopped);
            }
            return Ok(host_run::registered(&outcome));
        }
    }

    /// Applies `failed_when` and `changed_when` to an outcome; returns whether `until` is satisfied.
    fn judge(
        &self,
        run: &HostRun<'a>,
        task: &Task,
        item: Option<&Value>,
        outcome: &mut Outcome,
    ) -> Result<bool, Stopped> {
        let mut scope = run.variables.clone();
        if let Some(item) = item {
            scope.insert(task.loop_var.clone(), item.clone());
        }
        let mistaken = |diagnostic| run.mistaken(diagnostic, &task.name, &self.play.name);
        let all = |conditions: &[String], scope: &_| {
            conditions.iter().try_fold(true, |all, condition| {
                Ok(all && self.engine.templates.condition(condition, scope, &task.at)?)
            })
        };
        let see = |outcome: &Outcome, scope: &mut serde_json::Map<String, Value>| {
            if let Some(name) = &task.register {
                scope.insert(name.clone(), host_run::registered(outcome));
            }
        };
        see(outcome, &mut scope);
        if !task.failed_when.is_empty() {
            let failed = all(&task.failed_when, &scope).map_err(mistaken)?;
            outcome.verdict = match (failed, &outcome.verdict) {
                (true, Verdict::Failed(_)) | (false, Verdict::Unchanged | Verdict::Changed) => {
                    outcome.verdict.clone()
                }
                (true, _) => Verdict::Failed(Failure {
                    message: format!("`failed_when: {}` holds", task.failed_when.join(" and ")),
                    last_lines: lines(outcome),
                    ..Failure::default()
                }),
                (false, Verdict::Failed(_)) => Verdict::Changed,
            };
            see(outcome, &mut scope);
        }
        if !task.changed_when.is_empty() && !matches!(outcome.verdict, Verdict::Failed(_)) {
            let changed = all(&task.changed_when, &scope).map_err(mistaken)?;
            outcome.verdict = if changed { Verdict::Changed } else { Verdict::Unchanged };
            see(outcome, &mut scope);
        }
        if task.until.is_empty() {
            return Ok(true);
        }
        all(&task.until, &scope).map_err(mistaken)
    }
}

fn exhausted(task: &Task, attempts: u32, outcome: &Outcome) -> Failure {
    let mut failure = match &outcome.verdict {
        Verdict::Failed(failure) => failure.clone(),
        _ => Failure { last_lines: lines(outcome), ..Failure::default() },
    };
    let until = task.until.join(" and ");
    failure.message = format!("`until: {until}` did not hold in {attempts} attempts");
    failure
}

fn lines(outcome: &Outcome) -> Vec<String> {
    let text = |key: &str| outcome.result.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (stdout, stderr) = (text("stdout"), text("stderr"));
    let mut lines: Vec<String> = stdout.lines().chain(stderr.lines()).map(str::to_owned).collect();
    lines.split_off(lines.len().saturating_sub(10))
}
