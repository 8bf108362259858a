//! Keeps secrets out of everything that a run tells.

use crate::{
    model::Secret,
    remote::protocol::{Failure, Outcome, Verdict},
};

/// Words before a value that is a secret, whatever the inventory knows of it.
const SECRET_WORDS: [&str; 5] = ["password", "auth_pass", "passwd", "secret", "token"];

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

    /// A diff without secrets. The lines that go hold secrets of before, which no inventory knows any more:
    /// what stands where a known one comes, or behind a word for one, is hidden too.
    pub fn diff(&self, diff: &str) -> String {
        let places: Vec<&str> = diff
            .lines()
            .filter(|line| line.starts_with('+'))
            .filter_map(|line| {
                let starts = self.0.iter().filter_map(|secret| line.find(secret.expose()));
                Some(&line[1..starts.min()?])
            })
            .collect();
        let lines = diff.lines().map(|line| match line.strip_prefix('-') {
            Some(old) if !line.starts_with("--- ") => {
                let at_place =
                    places.iter().filter(|place| old.starts_with(**place)).map(|place| place.len());
                match at_place.chain(value_of_secret_word(old)).min() {
                    Some(start) => format!("-{}***", self.text(&old[..start])),
                    None => self.text(line),
                }
            }
            _ => self.text(line),
        });
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if diff.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// What people are told of an outcome; what `register` stores stays as it is.
    pub fn outcome(&self, outcome: &Outcome) -> Outcome {
        let mut outcome = outcome.clone();
        outcome.diff = self.diff(&outcome.diff);
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

/// Where the value begins that stands behind a word for a secret; none where there is no such value.
fn value_of_secret_word(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let values = SECRET_WORDS.iter().filter_map(|word| {
        let end = lower.find(word)? + word.len();
        let value = line[end..].trim_start_matches([' ', '\t', ':', '=', '"', '\'']);
        let start = line.len() - value.len();
        (start > end && !value.is_empty()).then_some(start)
    });
    values.min()
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
    fn a_secret_of_before_is_hidden_where_the_new_one_comes() {
        let mask = Mask::new(vec![Secret::new("new-one")]);
        let diff = "--- /etc/x\n+++ /etc/x\n@@ -1,4 +1,4 @@\n-phrase old-one\n+phrase new-one\n-  password: old-two\n\
                    -  password_encryption: md5\n-host all all 0.0.0.0/0 password\n-plain: text\n";
        insta::assert_snapshot!(mask.diff(diff), @"
        --- /etc/x
        +++ /etc/x
        @@ -1,4 +1,4 @@
        -phrase ***
        +phrase ***
        -  password: ***
        -  password_encryption: md5
        -host all all 0.0.0.0/0 password
        -plain: text
        ");
    }

    #[test]
    fn a_secret_inside_of_another_is_masked_whole() {
        let mask =
            Mask::new(vec![Secret::new("hunter2"), Secret::new("hunter2-and-more"), Secret::new("pg")]);
        assert_eq!(mask.text("pg: hunter2-and-more, hunter2"), "pg: ***, ***");
    }
}
