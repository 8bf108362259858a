//! Steps that follow one another, and what the present one waits for: on a terminal a live line, elsewhere
//! plain lines.

use super::{DIM, GOOD};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Without a terminal, a wait is told this often at most.
const WAITING_LINES: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Steps {
    live: Option<ProgressBar>,
    told: Option<Instant>,
}

impl Steps {
    pub fn begin(&mut self, step: &str) {
        self.told = None;
        if !super::interactive() {
            return super::note(step);
        }
        let style = ProgressStyle::with_template("{spinner} {prefix}{wide_msg:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_prefix(step.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.live = Some(bar);
    }

    pub fn waiting(&mut self, what: &str) {
        if let Some(live) = &self.live {
            return live.set_message(format!("  waiting: {what}"));
        }
        if self.told.is_none_or(|last| last.elapsed() >= WAITING_LINES) {
            self.told = Some(Instant::now());
            super::note(&format!("  {DIM}waiting{DIM:#}  {what}"));
        }
    }

    pub fn over(&mut self, step: &str) {
        self.clear();
        super::note(&format!("{GOOD}ok{GOOD:#} {step}"));
    }

    /// Takes the live line away.
    pub fn clear(&mut self) {
        if let Some(live) = self.live.take() {
            live.finish_and_clear();
        }
    }
}
