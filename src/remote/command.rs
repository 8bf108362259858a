//! Every external command goes through here: captured output, the C locale, a deadline, and a failure
//! that says which command, which exit code and which last lines.

use crate::remote::{host::Host, protocol::Failure};
use std::{
    ffi::OsString,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// More output than this is cut; a command that prints more isn't one whose output is looked at.
const OUTPUT_MAX_BYTES: u64 = 8 << 20;
/// A daemon that a command left behind keeps its pipes open; nobody waits longer for what it prints.
const STRAGGLER: Duration = Duration::from_millis(300);
const LAST_LINES: usize = 20;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command to be run.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    program: String,
    args: Vec<String>,
    stdin: Vec<u8>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    user: Option<String>,
    limit: Duration,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// As a shell counts: 128 plus the signal's number for a command that a signal ended.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn is_success(&self) -> bool {
        self.code == 0
    }

    /// The last lines of what it printed, standard error after standard output.
    pub fn last_lines(&self) -> Vec<String> {
        let lines: Vec<_> = self
            .stdout
            .lines()
            .chain(self.stderr.lines())
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

impl Invocation {
    pub fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            stdin: Vec::new(),
            directory: None,
            environment: Vec::new(),
            user: None,
            limit: Duration::from_secs(60),
        }
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    pub fn directory(mut self, directory: Option<PathBuf>) -> Self {
        self.directory = directory;
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another user than our own; none changes nothing.
    pub fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as it would be typed.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.program.as_str()).chain(self.args.iter().map(String::as_str));
        shlex::try_join(words.clone()).unwrap_or_else(|_| words.collect::<Vec<_>>().join(" "))
    }

    fn failure(&self, message: String) -> Failure {
        Failure { message, command: Some(self.line()), ..Failure::default() }
    }

    /// Runs it to its end, whatever its exit code. Fails if it can't be started or takes too long.
    pub async fn output(&self, host: &Host) -> Result<Output, Failure> {
        let mut child = self.spawn(host)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command that doesn't read its input to the end is none of our business.
                let _ = stdin.write_all(&self.stdin).await;
            }
        };
        let mut out = Vec::new();
        let mut err = Vec::new();
        let done = async {
            let mut gather = std::pin::pin!(async {
                tokio::join!(drain(stdout, &mut out), drain(stderr, &mut err), feed);
            });
            let status = tokio::select! {
                status = child.wait() => {
                    // The pipes may be open for long if the command left a daemon behind.
                    let _ = timeout(STRAGGLER, &mut gather).await;
                    status
                }
                () = &mut gather => child.wait().await,
            };
            status.map_err(|error| self.failure(format!("`{}` could not be awaited: {error}", self.program)))
        };
        let status = timeout(self.limit, done).await;
        match status {
            Ok(status) => Ok(Output { code: code(status?), stdout: text(out), stderr: text(err) }),
            Err(_) => {
                end(&mut child).await;
                let output = Output { code: -1, stdout: text(out), stderr: text(err) };
                Err(Failure {
                    last_lines: output.last_lines(),
                    ..self.failure(format!("took longer than {} s", self.limit.as_secs()))
                })
            }
        }
    }

    /// Runs it; any exit code but 0 is a failure that says `purpose`.
    pub async fn success(&self, host: &Host, purpose: &str) -> Result<Output, Failure> {
        let output = self.output(host).await?;
        if output.is_success() { Ok(output) } else { Err(self.failed(&output, purpose)) }
    }

    /// The failure that `output` means.
    pub fn failed(&self, output: &Output, purpose: &str) -> Failure {
        Failure {
            exit_code: Some(output.code),
            last_lines: output.last_lines(),
            ..self.failure(purpose.to_owned())
        }
    }

    fn spawn(&self, host: &Host) -> Result<Child, Failure> {
        let mut command = match &self.user {
            // runuser rather than setuid: it takes on the user's groups and limits too.
            Some(user) if !is_ourselves(host, user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--", &self.program]);
                if let Some(account) = host.accounts().user(user) {
                    command.env("HOME", account.home).env("USER", user).env("LOGNAME", user);
                }
                command
            }
            _ => Command::new(&self.program),
        };
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
            .args(self.args.iter().map(OsString::from))
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env_remove("LANGUAGE")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Standard output is the protocol's; a child never gets it.
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command.spawn().map_err(|error| {
            let what = match error.kind() {
                std::io::ErrorKind::NotFound
                    if self.directory.as_ref().is_some_and(|path| !path.exists()) =>
                {
                    "its directory does not exist".to_owned()
                }
                std::io::ErrorKind::NotFound => "there is no such command on the host".to_owned(),
                _ => error.to_string(),
            };
            self.failure(format!("`{}` could not be started: {what}", self.program))
        })
    }
}

/// Whether a command for `user` runs as ourselves anyway.
fn is_ourselves(host: &Host, user: &str) -> bool {
    let uid = nix::unistd::geteuid().as_raw();
    user.parse() == Ok(uid) || host.accounts().user(user).is_some_and(|account| account.uid == uid)
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(mut pipe) = pipe {
        // A pipe that breaks has given all that it had.
        let _ = (&mut pipe).take(OUTPUT_MAX_BYTES).read_to_end(into).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}

/// Ends the command and all that it started, kindly first.
async fn end(child: &mut Child) {
    use nix::{
        sys::signal::{Signal, killpg},
        unistd::Pid,
    };
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else { return };
    // The group is gone already if the signal can't be delivered.
    let _ = killpg(group, Signal::SIGTERM);
    tokio::select! {
        _ = child.wait() => {}
        () = sleep(Duration::from_secs(5)) => {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait().await;
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn host() -> Host {
        Host::at("/")
    }

    #[tokio::test]
    async fn output_exit_code_and_last_lines_are_kept() {
        let shell = Invocation::new("sh").args(["-c", "cat; echo bad >&2; exit 3"]).stdin("in\n");
        let output = shell.output(&host()).await.expect("it ran");
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "in\n", "bad\n"));
        let failure = shell.success(&host(), "the test failed").await.expect_err("exit code 3");
        assert_eq!(failure.last_lines, ["in", "bad"]);
        assert_eq!(failure.command.as_deref(), Some("sh -c 'cat; echo bad >&2; exit 3'"));
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_ended_with_its_children() {
        let slow = Invocation::new("sh").args(["-c", "echo begun; sleep 1000 & wait"]);
        let failure = slow.limit(Duration::from_millis(200)).output(&host()).await.expect_err("a deadline");
        assert_eq!(failure.last_lines, ["begun"]);
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_us() {
        let begun = Instant::now();
        let output = Invocation::new("sh").args(["-c", "sleep 20 & echo done"]).output(&host()).await;
        assert_eq!(output.expect("it ran").stdout, "done\n");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_said() {
        let failure = Invocation::new("no-such-command").output(&host()).await.expect_err("nothing to run");
        insta::assert_snapshot!(failure, @"`no-such-command` could not be started: there is no such command on the host");
    }
}
