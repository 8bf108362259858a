//! Runs the program under test as its user does.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The program with these arguments.
pub fn pgfleet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgfleet"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    for variable in [
        "PGFLEET_INVENTORY",
        "PGFLEET_SANDBOX",
        "PGFLEET_VAULT_PASSWORD",
        "PGFLEET_VAULT_PASSWORD_FILE",
        "ANSIBLE_VAULT_PASSWORD_FILE",
    ] {
        command.env_remove(variable);
    }
    command
}

/// How a run ended and what it wrote.
#[must_use = "look at the outcome or assert success"]
#[derive(Debug)]
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output of a run that succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Standard error of a run that ended with this code.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self}");
        self.stderr
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ended with {:?}", self.line, self.code)?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    let line = format!("{command:?}");
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { line, code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Waits until `condition` gives something; panics with `what` after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let begun = Instant::now();
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        // A look that costs much, such as a whole `pgfleet status`, must not slow down what it waits for.
        std::thread::sleep(begun.elapsed().clamp(Duration::from_millis(5), Duration::from_secs(1)));
    }
}

/// The name of a sandbox that is removed when this goes out of scope, however the test ends.
pub struct Scratch {
    pub name: String,
}

impl Scratch {
    pub fn new(what: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Scratch { name: format!("test-{what}-{}-{number}", std::process::id()) }
    }

    /// `pgfleet sandbox SUBCOMMAND --name NAME ARGUMENTS`
    pub fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = pgfleet(&["sandbox", subcommand, "--name", &self.name]);
        command.args(arguments);
        command
    }

    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> Ran {
        run(&mut self.command(subcommand, arguments))
    }

    /// Standard output of a shell command on a host, which must succeed.
    #[track_caller]
    pub fn on(&self, host: &str, command: &str) -> String {
        self.run("ssh", &[host, command]).success().trim().to_owned()
    }

    /// Where the sandbox's own files are.
    pub fn home(&self) -> PathBuf {
        let root = std::env::var_os("PGFLEET_SANDBOX_DIR");
        let root = root.map_or_else(|| PathBuf::from("/var/lib/pgfleet/sandbox"), PathBuf::from);
        root.join("sandboxes").join(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = run(&mut pgfleet(&["sandbox", "down", "--name", &self.name]));
        if !std::thread::panicking() {
            assert_eq!(removed.code, Some(0), "{removed}");
        }
    }
}
