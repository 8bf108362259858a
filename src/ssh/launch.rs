//! How a command is put to the login shell of a user, and how it is known that it runs.
//!
//! The command announces its start by a line that nothing else prints, so that what profiles and
//! message-of-the-day scripts say before it is told apart, and that sudo's questions are over.

use super::{
    channel::{Exit, Process},
    error::SessionProblem,
    sudo,
    target::Become,
};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// sudo may ask a directory server that is slow, but not for ever.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// More noise than this before the command starts is not noise.
const MOST_NOISE_BYTES: usize = 256 * 1024;

/// A command, ready for the login shell.
pub struct Launch<'a> {
    pub line: String,
    ready: String,
    prompt: String,
    r#become: Option<&'a Become>,
}

impl<'a> Launch<'a> {
    pub fn new(command: &str, r#become: Option<&'a Become>) -> Self {
        let nonce = format!("{:016x}", rand::random::<u64>());
        let ready = format!("pgfleet-ready-{nonce}");
        let prompt = format!("pgfleet-password-{nonce}:");
        let announced = format!(r"printf '\n%s\n' {ready}; {command}");
        let script = match r#become {
            Some(r#become) => sudo::script(r#become, &announced, &prompt),
            None => announced,
        };
        // The login shell may be any; all of them know this much.
        Self { line: format!("exec sh -c {}", quote(&script)), ready, prompt, r#become }
    }

    /// Waits until the command runs, and answers sudo on the way.
    pub async fn see_started(&self, process: &mut Process, user: &str) -> Result<(), SessionProblem> {
        match tokio::time::timeout(START_PATIENCE, self.converse(process, user)).await {
            Ok(result) => result,
            Err(_) if self.r#become.is_some() => {
                Err(SessionProblem::Sudo { said: "it did not answer within a minute".to_owned() })
            }
            Err(_) => Err(SessionProblem::NotStarted { said: "nothing happened for a minute".to_owned() }),
        }
    }

    async fn converse(&self, process: &mut Process, user: &str) -> Result<(), SessionProblem> {
        let mut noise = Vec::new();
        let mut questions = 0;
        let stderr = process.stderr.clone();
        loop {
            let piece = tokio::select! {
                piece = process.stdout.piece() => piece,
                true = stderr.wait_for(&self.prompt, questions + 1) => {
                    questions += 1;
                    let password = self.r#become.and_then(|r#become| r#become.password.as_ref());
                    match password {
                        Some(password) if questions == 1 => {
                            let mut line = zeroize::Zeroizing::new(password.expose().as_bytes().to_vec());
                            line.push(b'\n');
                            // A failed write shows as the end of the command.
                            let _ = process.stdin.write_all(&line).await;
                        }
                        _ => return Err(SessionProblem::SudoWrongPassword { user: user.to_owned() }),
                    }
                    continue;
                }
            };
            let Some(piece) = piece else {
                let exit = process.wait().await;
                return Err(self.why_not_started(process, exit, &noise, user));
            };
            noise.extend_from_slice(&piece);
            let ready = format!("\n{}\n", self.ready);
            if let Some(at) = find(&noise, ready.as_bytes()) {
                let rest = noise.split_off(at + ready.len());
                process.stdout.unread(rest.into());
                if questions > 0 {
                    process.stderr.forget_through(&self.prompt);
                }
                return Ok(());
            }
            if noise.len() > MOST_NOISE_BYTES {
                return Err(SessionProblem::NotStarted {
                    said: "the login shell prints without end".to_owned(),
                });
            }
        }
    }

    fn why_not_started(&self, process: &Process, exit: Exit, noise: &[u8], user: &str) -> SessionProblem {
        let complaint = process.stderr.text();
        if exit == Exit::Refused {
            return SessionProblem::ExecRefused;
        }
        if self.r#become.is_some()
            && let Some(problem) = sudo::diagnose(&complaint, user)
        {
            return problem;
        }
        let mut said = process.stderr.last_lines(5).join("; ");
        if said.is_empty() {
            said = String::from_utf8_lossy(noise).trim().replace('\n', "; ");
        }
        match exit {
            Exit::Lost if said.is_empty() => SessionProblem::Lost { why: String::new() },
            Exit::Status(status) if said.is_empty() => {
                SessionProblem::NotStarted { said: format!("exit code {status}") }
            }
            Exit::Signal(signal) if said.is_empty() => {
                SessionProblem::NotStarted { said: format!("ended by SIG{signal}") }
            }
            _ => SessionProblem::NotStarted { said },
        }
    }
}

/// Quotes `text` as one word of a POSIX shell; csh and fish read it the same.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_shell_reads_back_what_was_quoted(text in "[^\u{0}]{0,40}") {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(&text))]).output();
            prop_assert_eq!(output.map(|output| output.stdout).ok(), Some(text.into_bytes()));
        }
    }
}
