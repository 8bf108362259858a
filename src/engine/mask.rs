//! Keeps secrets out of everything that a run tells.

use crate::{
    model::Secret,
    remote::protocol::{Failure, Outcome, Verdict},
};

/// Shorter secrets occur by chance, and masking them would garble what is said.
const SHORTEST: usize = 4;

/// The texts that must not be told.
#[derive(Clone, Default)]
pub struct Mask(Vec<Secret>);

impl Mask {
    /// Longest first, so that a secret which contains another is masked whole. A key has several lines, and
    /// a diff shows each by itself.
    pub fn new(mut secrets: Vec<Secret>) -> Self {
        let line =
            |line: &str| Some(Secret::new(line)).filter(|_| line.len() > 8 && !line.starts_with("-----"));
        let lines = secrets.iter().filter(|secret| secret.expose().contains('\n'));
        let lines: Vec<Secret> = lines.flat_map(|secret| secret.expose().lines().filter_map(line)).collect();
        secrets.extend(lines);
        secrets.retain(|secret| secret.expose().len() >= SHORTEST);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self(secrets)
    }

    /// Whether a secret is in the text.
    pub fn hides(&self, text: &str) -> bool {
        self.0.iter().any(|secret| text.contains(secret.expose()))
    }

    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "***"))
    }

    /// What people are told of an outcome; what `register` stores stays as it is.
    pub fn outcome(&self, outcome: &Outcome) -> Outcome {
        let mut outcome = outcome.clone();
        outcome.diff = self.text(&outcome.diff);
        outcome.warnings = outcome.warnings.iter().map(|warning| self.text(warning)).collect();
        for setting in &mut outcome.settings {
            setting.old = setting.old.as_deref().map(|value| self.text(value));
            setting.new = setting.new.as_deref().map(|value| self.text(value));
        }
        if let Verdict::Failed(failure) = &mut outcome.verdict {
            *failure = self.failure(failure);
        }
        outcome
    }

    pub fn failure(&self, failure: &Failure) -> Failure {
        Failure {
            message: self.text(&failure.message),
            command: failure.command.as_deref().map(|command| self.text(command)),
            exit_code: failure.exit_code,
            cancelled: failure.cancelled,
            last_lines: failure.last_lines.iter().map(|line| self.text(line)).collect(),
            next_step: failure.next_step.as_deref().map(|step| self.text(step)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_key_is_told() {
        let mask = Mask::new(vec![Secret::new(
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqG\nSM49AgEG\nx9Y0a+/wxyz12\n-----END PRIVATE KEY-----\n",
        )]);
        assert_eq!(
            mask.text("+-----BEGIN PRIVATE KEY-----\n+MIGHAgEAMBMGByqG\n-x9Y0a+/wxyz12"),
            "+-----BEGIN PRIVATE KEY-----\n+***\n-***"
        );
    }

    #[test]
    fn a_secret_inside_of_another_is_masked_whole() {
        let mask =
            Mask::new(vec![Secret::new("hunter2"), Secret::new("hunter2-and-more"), Secret::new("pg")]);
        assert_eq!(mask.text("pg: hunter2-and-more, hunter2"), "pg: ***, ***");
    }
}
