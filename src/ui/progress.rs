//! A run as it goes on: on a terminal a live line per host, elsewhere plain lines.

use super::{BAD, CHANGED, DIM, GOOD, HEADING};
use crate::{
    engine::{Event, Finding},
    model::HostName,
    remote::protocol::DriftKind,
};
use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Without a terminal, a host that waits says so this often at most.
const WAITING_LINES: Duration = Duration::from_secs(10);

/// How much of a run is printed.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// Steps that changed nothing are printed too.
    pub every_step: bool,
    pub diff: bool,
    /// Under `plan` a change has not happened.
    pub would: bool,
}

/// Prints a run's events until the run is over.
pub struct Progress {
    detail: Detail,
    live: Option<MultiProgress>,
    bars: IndexMap<HostName, ProgressBar>,
    waiting: IndexMap<HostName, Instant>,
}

impl Progress {
    pub fn new(detail: Detail) -> Self {
        let live = super::interactive().then(MultiProgress::new);
        Self { detail, live, bars: IndexMap::new(), waiting: IndexMap::new() }
    }

    /// Listens until every sender is gone.
    pub async fn listen(mut self, mut events: tokio::sync::mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.show(&event);
        }
        if let Some(live) = &self.live {
            let _ = live.clear();
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Connecting { host } => self.set(host, "connecting"),
            Event::Connected { host } => self.idle(host),
            Event::PlayStarted { name, hosts } => {
                let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
                self.print(&format!("{HEADING}{name}{HEADING:#} {DIM}{}{DIM:#}", hosts.join(" ")));
            }
            Event::PlayFinished { .. } => self.bars.values().for_each(|bar| bar.set_message("")),
            Event::StepStarted { host, step } => self.set(host, step),
            Event::Waiting { host, message } => self.wait(host, message),
            Event::StepFinished { host, step, finding } => {
                self.waiting.shift_remove(host);
                self.finished(host, step, finding);
                self.idle(host);
            }
            Event::Noted { text } => self.print(text),
            Event::Said { host, text } => self.print(&format!("  {host}: {text}")),
        }
    }

    fn finished(&self, host: &HostName, step: &str, finding: &Finding) {
        match finding {
            Finding::Unchanged { warnings } => {
                if self.detail.every_step {
                    self.print(&format!("  {GOOD}ok{GOOD:#}       {host}: {step}"));
                }
                self.warn(host, warnings);
            }
            Finding::Changed { diff, drift, warnings, .. } => {
                let word = if self.detail.would { "would  " } else { "changed" };
                // What was there before us is replaced on every new host: nothing to remark on.
                let drift = drift.as_ref().filter(|drift| drift.kind != DriftKind::Foreign);
                let drift = drift.map(|drift| format!(" {DIM}({drift}){DIM:#}")).unwrap_or_default();
                self.print(&format!("  {CHANGED}{word}{CHANGED:#}  {host}: {step}{drift}"));
                if self.detail.diff && !diff.is_empty() {
                    self.print(&super::diff::coloured(diff));
                }
                self.warn(host, warnings);
            }
            Finding::Skipped => {
                if self.detail.every_step {
                    self.print(&format!("  {DIM}skipped  {host}: {step}{DIM:#}"));
                }
            }
            Finding::Failed(failure) if failure.cancelled => {
                self.print(&format!("  {DIM}stopped  {host}: {step}: {}{DIM:#}", failure.message));
            }
            Finding::Failed(failure) => {
                self.print(&format!("  {BAD}failed{BAD:#}   {host}: {step}: {}", failure.message));
            }
        }
    }

    fn warn(&self, host: &HostName, warnings: &[String]) {
        for warning in warnings {
            self.print(&format!("  {CHANGED}warning{CHANGED:#}  {host}: {warning}"));
        }
    }

    fn wait(&mut self, host: &HostName, message: &str) {
        if self.live.is_some() {
            return self.set(host, &format!("waiting: {message}"));
        }
        let due = self.waiting.get(host).is_none_or(|last| last.elapsed() >= WAITING_LINES);
        if due {
            self.waiting.insert(host.clone(), Instant::now());
            self.print(&format!("  {DIM}waiting{DIM:#}  {host}: {message}"));
        }
    }

    fn set(&mut self, host: &HostName, message: &str) {
        let Some(live) = &self.live else { return };
        let bar = self.bars.entry(host.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template("  {spinner} {prefix:16} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = live.add(ProgressBar::new_spinner().with_style(style).with_prefix(host.to_string()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(message.to_owned());
    }

    fn idle(&self, host: &HostName) {
        if let Some(bar) = self.bars.get(host) {
            bar.set_message("");
        }
    }

    fn print(&self, text: &str) {
        match &self.live {
            Some(live) => live.suspend(|| super::note(text)),
            None => super::note(text),
        }
    }
}
