//! Tasks that the control machine carries out itself: assert, debug, fail, set_fact, include_tasks,
//! flush_handlers.

use super::{
    event::Event,
    host_run::{HostRun, Stopped},
    lower,
    play::{PlayRun, Runs},
    run::Ended,
    variables,
};
use crate::{
    diagnostic::Diagnostic,
    model::HostName,
    playbook::{Action, Debug, Include, Task},
    remote::protocol::Failure,
};
use serde_json::{Map, Value};

/// A file to include, and the variables that its tasks see besides.
type Inclusion = (String, Map<String, Value>);

impl<'a> PlayRun<'_, 'a> {
    pub async fn control(&self, task: &Task, hosts: &[HostName], runs: &mut Runs<'a>) -> Ended {
        match &task.action {
            Action::FlushHandlers => return self.handlers(runs).await,
            Action::IncludeTasks(include) => return self.include(task, include, hosts, runs).await,
            _ => {}
        }
        let hosts = if task.run_once { &hosts[..hosts.len().min(1)] } else { hosts };
        let mut failures = Vec::new();
        for name in hosts {
            if let Some(run) = runs.get_mut(name)
                && let Err(stopped) = self.here(task, run)
            {
                failures.push(stopped);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Carries out the tasks of another file on the hosts for which `when` holds.
    async fn include(
        &self,
        task: &Task,
        include: &Include,
        hosts: &[HostName],
        runs: &mut Runs<'a>,
    ) -> Ended {
        // Hosts that include the same file with the same variables go through it together.
        let mut parts: Vec<(String, Map<String, Value>, Vec<HostName>)> = Vec::new();
        for name in hosts {
            let Some(run) = runs.get(name) else { continue };
            for (file, vars) in self.inclusions(task, include, run).map_err(|stopped| vec![stopped])? {
                match parts.iter_mut().find(|part| part.0 == file && part.1 == vars) {
                    Some(part) => part.2.push(name.clone()),
                    None => parts.push((file, vars, vec![name.clone()])),
                }
            }
        }
        for (file, vars, hosts) in parts {
            let loaded;
            let tasks = match &include.tasks {
                Some(tasks) => tasks,
                None => {
                    loaded = self.read(task, include, &file, &hosts[0], runs)?;
                    &loaded
                }
            };
            let before: Vec<(HostName, Map<String, Value>)> = hosts
                .iter()
                .filter_map(|name| Some((name.clone(), runs.get(name)?.variables.clone())))
                .collect();
            for (name, _) in &before {
                if let Some(run) = runs.get_mut(name) {
                    variables::overlay(&mut run.variables, &vars);
                }
            }
            let ended = self.tasks(tasks, &hosts, runs).await;
            // The include's own variables end with it; what its tasks registered stays.
            for (name, variables) in before {
                if let Some(run) = runs.get_mut(&name) {
                    run.variables = variables;
                    variables::overlay(&mut run.variables, &run.registered);
                }
            }
            ended?;
        }
        Ok(())
    }

    /// Reads a file whose name had to be rendered first.
    fn read(
        &self,
        task: &Task,
        include: &Include,
        file: &str,
        host: &HostName,
        runs: &Runs<'a>,
    ) -> Result<Vec<Task>, Vec<Stopped>> {
        self.playbook.include(include, file, self.play).map_err(|diagnostics| {
            let mistakes = diagnostics.0.into_iter();
            runs.get(host)
                .into_iter()
                .flat_map(|run| mistakes.clone().map(|one| self.mistake(run, task, one)))
                .collect()
        })
    }

    /// The files that a host includes here, each with the variables that the include adds.
    fn inclusions(
        &self,
        task: &Task,
        include: &Include,
        run: &HostRun<'a>,
    ) -> Result<Vec<Inclusion>, Stopped> {
        let templates = self.engine.templates;
        let mistake = |diagnostic| self.mistake(run, task, diagnostic);
        let mut scope = self.scope(task, run)?;
        let own: Vec<String> = task.vars.keys().cloned().collect();
        let items = lower::loop_items(task, &scope, templates).map_err(mistake)?;
        let mut inclusions = Vec::new();
        for item in items.map_or_else(|| vec![None], |items| items.into_iter().map(Some).collect()) {
            let mut vars: Map<String, Value> =
                own.iter().filter_map(|name| Some((name.clone(), scope.get(name)?.clone()))).collect();
            if let Some(item) = item {
                scope.insert(task.loop_var.clone(), item.clone());
                vars.insert(task.loop_var.clone(), item);
            }
            if lower::applies(task, &scope, templates).map_err(mistake)? {
                inclusions.push((templates.render(&include.file, &scope, &task.at).map_err(mistake)?, vars));
            }
        }
        Ok(inclusions)
    }

    /// Carries the task out for one host, once per item of its loop.
    fn here(&self, task: &Task, run: &mut HostRun<'a>) -> Result<(), Stopped> {
        let mut scope = self.scope(task, run)?;
        let items = lower::loop_items(task, &scope, self.engine.templates)
            .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
        for item in items.map_or_else(|| vec![None], |items| items.into_iter().map(Some).collect()) {
            if let Some(item) = item {
                scope.insert(task.loop_var.clone(), item);
            }
            let applies = lower::applies(task, &scope, self.engine.templates)
                .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
            if applies {
                self.act(task, &scope, run)?;
            } else {
                run.skip(&task.name, &self.engine.sink);
            }
        }
        Ok(())
    }

    fn act(&self, task: &Task, scope: &Map<String, Value>, run: &mut HostRun<'a>) -> Result<(), Stopped> {
        let templates = self.engine.templates;
        let render = |text: &str| templates.render(text, scope, &task.at);
        match &task.action {
            Action::Assert { that, fail_msg, .. } => {
                for condition in that {
                    let holds = templates
                        .condition(condition, scope, &task.at)
                        .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
                    if !holds {
                        let message = match fail_msg {
                            Some(message) => {
                                render(message).map_err(|diagnostic| self.mistake(run, task, diagnostic))?
                            }
                            None => format!("`{condition}` does not hold"),
                        };
                        return Err(self.fail(task, message, run));
                    }
                }
            }
            Action::Fail { msg } => {
                let message = render(msg).map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
                return Err(self.fail(task, message, run));
            }
            Action::Debug(debug) => {
                let value = match debug {
                    Debug::Msg(msg) => msg.clone(),
                    Debug::Var(expression) => Value::String(format!("{{{{ {expression} }}}}")),
                };
                let text = templates
                    .value(&value, scope, &task.at)
                    .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
                let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                let text = self.engine.mask.text(&text);
                let _ = self.engine.sink.send(Event::Said { host: run.host.name.clone(), text });
            }
            Action::SetFact(facts) => {
                for (name, value) in facts {
                    let value = templates
                        .value(value, scope, &task.at)
                        .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
                    run.remember(name, value);
                }
            }
            Action::Module { .. } | Action::IncludeTasks(_) | Action::FlushHandlers => {}
        }
        run.tally.unchanged += 1;
        Ok(())
    }

    /// The host's variables with the task's own on top.
    fn scope(&self, task: &Task, run: &HostRun<'a>) -> Result<Map<String, Value>, Stopped> {
        let mut scope = run.variables.clone();
        for (name, value) in &task.vars {
            let value = self
                .engine
                .templates
                .value(value, &scope, &task.at)
                .map_err(|diagnostic| self.mistake(run, task, diagnostic))?;
            scope.insert(name.clone(), value);
        }
        Ok(scope)
    }

    fn mistake(&self, run: &HostRun<'a>, task: &Task, diagnostic: Diagnostic) -> Stopped {
        run.mistaken(diagnostic, &task.name, &self.play.name)
    }

    fn fail(&self, task: &Task, message: String, run: &HostRun<'a>) -> Stopped {
        let failure = Failure { message, ..Failure::default() };
        let mut stopped = run.failed(failure, &task.name, &self.play.name);
        stopped.at = Some(task.at.clone());
        stopped
    }
}
