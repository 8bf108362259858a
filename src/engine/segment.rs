//! Cuts a play's tasks into what can travel together. Tasks whose result decides about later ones end
//! a batch; authors never say where.

use crate::{
    playbook::{Action, Task},
    remote::protocol::Mode,
};

/// A stretch of a play.
#[derive(Debug)]
pub enum Segment<'a> {
    /// Sent to each host as one batch: nothing in it needs to be known before the rest.
    Together(Vec<&'a Task>),
    /// Sent by itself: the control machine judges its result, repeats it, or picks the host it runs on.
    Alone(&'a Task),
    /// Carried out on the control machine: assert, debug, fail, set_fact, include_tasks, flush_handlers.
    Control(&'a Task),
}

/// Cuts `tasks` in their order.
pub fn cut<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Vec<Segment<'a>> {
    let mut segments = Vec::new();
    let mut together = Vec::new();
    for task in tasks {
        match &task.action {
            Action::Module { .. } if judged_here(task) => {
                flush(&mut together, &mut segments);
                segments.push(Segment::Alone(task));
            }
            Action::Module { .. } => {
                together.push(task);
                if task.register.is_some() {
                    flush(&mut together, &mut segments);
                }
            }
            _ => {
                flush(&mut together, &mut segments);
                segments.push(Segment::Control(task));
            }
        }
    }
    flush(&mut together, &mut segments);
    segments
}

fn flush<'a>(together: &mut Vec<&'a Task>, segments: &mut Vec<Segment<'a>>) {
    if !together.is_empty() {
        segments.push(Segment::Together(std::mem::take(together)));
    }
}

/// Whether the engine must see this task's result before anything else happens on the host.
fn judged_here(task: &Task) -> bool {
    task.run_once
        || task.delegate_to.is_some()
        || !task.until.is_empty()
        || task.changed_when.iter().chain(&task.failed_when).any(|condition| literal(condition).is_none())
        || reads_only(task)
        || task.check_mode.is_some()
}

/// A command that is declared never to change anything runs under `plan` too, so that what it registers
/// is known there.
fn reads_only(task: &Task) -> bool {
    matches!(&task.action, Action::Module { name, .. } if name == "command" || name == "shell")
        && task.register.is_some()
        && verdict(&task.changed_when) == Some(false)
}

/// How a task that is sent alone runs: as the whole run does, unless it says otherwise itself.
pub fn mode(task: &Task, run: Mode) -> Mode {
    match task.check_mode {
        Some(true) => Mode::Check,
        Some(false) => Mode::Apply,
        None if reads_only(task) => Mode::Apply,
        None => run,
    }
}

/// The value of a list of conditions that are all literal; `None` when one has to be evaluated.
pub fn verdict(conditions: &[String]) -> Option<bool> {
    if conditions.is_empty() {
        return None;
    }
    conditions.iter().map(|condition| literal(condition)).try_fold(true, |all, one| Some(all && one?))
}

fn literal(condition: &str) -> Option<bool> {
    match condition.trim() {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    }
}
