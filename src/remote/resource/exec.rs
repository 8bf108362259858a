//! Commands, for what no other resource covers.

use crate::remote::{
    command::{Invocation, Output},
    host::{Context, Finding, Manage, failure, failure_with},
    protocol::{AWAITED, Failure, Mode},
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// `command`: a program with its arguments, no shell between.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command line, split as a shell splits words. `command: LINE` means the same.
    #[serde(default, alias = "_raw_params")]
    pub cmd: Option<String>,
    /// The same as a list.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Done already when this path exists (globs allowed).
    #[serde(default)]
    pub creates: Option<String>,
    /// Done already when this path doesn't exist (globs allowed).
    #[serde(default)]
    pub removes: Option<String>,
    /// Done already when this shell command succeeds. It must change nothing: plans run it too.
    #[serde(default)]
    pub unless: Option<String>,
    #[serde(default)]
    pub chdir: Option<String>,
    #[serde(default)]
    pub stdin: Option<String>,
    #[serde(default)]
    pub environment: IndexMap<String, String>,
    /// How long it may take, in seconds.
    #[serde(default = "ten_minutes_secs")]
    pub timeout: u64,
}

/// `shell`: a line for `/bin/sh`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shell {
    #[serde(alias = "_raw_params")]
    pub cmd: String,
    /// The shell to use.
    #[serde(default = "sh")]
    pub executable: String,
    #[serde(default)]
    pub creates: Option<String>,
    #[serde(default)]
    pub removes: Option<String>,
    #[serde(default)]
    pub unless: Option<String>,
    #[serde(default)]
    pub chdir: Option<String>,
    #[serde(default)]
    pub stdin: Option<String>,
    #[serde(default)]
    pub environment: IndexMap<String, String>,
    #[serde(default = "ten_minutes_secs")]
    pub timeout: u64,
}

fn sh() -> String {
    "/bin/sh".to_owned()
}

fn ten_minutes_secs() -> u64 {
    600
}

impl Command {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (&self.cmd, self.argv.is_empty()) {
            (Some(_), false) => Err("expected either `cmd` or `argv`, not both".to_owned()),
            (None, true) => Err("expected `cmd` or `argv`".to_owned()),
            (Some(line), true) => match shlex::split(line) {
                Some(words) if !words.is_empty() => Ok(()),
                Some(_) => Err("`cmd`: expected a command".to_owned()),
                None => Err("`cmd`: a quote is not closed".to_owned()),
            },
            (None, false) => Ok(()),
        }
    }
}

/// What both kinds have in common: what to run, and when it is done already.
struct Run<'a> {
    argv: Vec<String>,
    creates: Option<&'a str>,
    removes: Option<&'a str>,
    unless: Option<&'a str>,
    chdir: Option<&'a str>,
    stdin: Option<&'a str>,
    environment: &'a IndexMap<String, String>,
    timeout: u64,
}

impl Run<'_> {
    fn invocation(&self, context: &Context<'_>) -> Result<Invocation, Failure> {
        let (program, args) = self.argv.split_first().ok_or_else(|| failure("there is no command"))?;
        Ok(self.around(Invocation::new(program).args(args), context).stdin(self.stdin.unwrap_or_default()))
    }

    /// `command` where and as whom this one runs.
    fn around(&self, command: Invocation, context: &Context<'_>) -> Invocation {
        let command = command
            .directory(self.chdir.map(|chdir| context.host.path(chdir)))
            .user(context.become_user)
            .limit(Duration::from_secs(self.timeout));
        self.environment.iter().fold(command, |command, (name, value)| command.environment(name, value))
    }

    /// Why it need not run.
    async fn done(&self, context: &Context<'_>) -> Result<Option<String>, Failure> {
        let exists = |pattern: &str| matches(context, self.chdir, pattern);
        if let Some(creates) = self.creates.filter(|creates| exists(creates)) {
            return Ok(Some(format!("{creates} exists")));
        }
        if let Some(removes) = self.removes.filter(|removes| !exists(removes)) {
            return Ok(Some(format!("{removes} does not exist")));
        }
        if let Some(unless) = self.unless {
            let test = self.around(Invocation::new("/bin/sh").args(["-c", unless]), context);
            match test.output(context.host).await {
                Ok(output) if output.is_success() => return Ok(Some(format!("`{unless}` succeeds"))),
                Ok(_) => {}
                // In a plan, its user or directory may be yet to come.
                Err(_) if context.anticipates_change() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }

    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        if let Some(why) = self.done(context).await? {
            return Ok(Finding::unchanged().with("skipped_because", why).with("rc", 0));
        }
        let command = self.invocation(context)?;
        if context.mode == Mode::Check && context.changed == Some(false) {
            // A task that says `changed_when: false` only looks, so plans run it too: what it registers is
            // what later conditions need. What it looks at may be yet to come.
            let mut finding = Finding::unchanged();
            return match command.output(context.host).await {
                Ok(output) => {
                    record(&mut finding, &command, &output);
                    // In earnest this is a failure, if the task does not say otherwise.
                    if !output.is_success() {
                        finding.result.insert(AWAITED.to_owned(), command.line().into());
                    }
                    Ok(finding)
                }
                Err(_) if context.anticipates_change() => Ok(finding),
                Err(failure) => Err(failure),
            };
        }
        if context.changed != Some(false) {
            context.promise_anything();
        }
        Ok(Finding::changed(format!("run: {}", command.line())))
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let command = self.invocation(context)?;
        let output = command.output(context.host).await?;
        record(finding, &command, &output);
        if output.is_success() {
            return Ok(());
        }
        Err(Failure {
            next_step: Some("see its last lines; repair the cause on the host, then run again".to_owned()),
            ..command.failed(&output, &format!("the command ended with exit code {}", output.code))
        })
    }

    /// It has run; what it should have made or removed must now be so.
    fn verify(&self, context: &Context<'_>) -> Result<(), Failure> {
        let exists = |pattern: &str| matches(context, self.chdir, pattern);
        match (self.creates.filter(|path| !exists(path)), self.removes.filter(|path| exists(path))) {
            (Some(path), _) => Err(failure_with(
                format!("the command succeeded, but {path} does not exist"),
                "correct `creates`, or the command",
            )),
            (None, Some(path)) => Err(failure_with(
                format!("the command succeeded, but {path} still exists"),
                "correct `removes`, or the command",
            )),
            (None, None) => Ok(()),
        }
    }
}

fn record(finding: &mut Finding, command: &Invocation, output: &Output) {
    let lines = |text: &str| text.lines().map(Value::from).collect::<Vec<_>>();
    let (stdout, stderr) = (output.stdout.trim_end(), output.stderr.trim_end());
    for (key, value) in [
        ("cmd", Value::from(command.line())),
        ("rc", output.code.into()),
        ("stdout", stdout.into()),
        ("stderr", stderr.into()),
        ("stdout_lines", lines(stdout).into()),
        ("stderr_lines", lines(stderr).into()),
    ] {
        finding.result.insert(key.to_owned(), value);
    }
}

/// Whether a path, in which the last name may hold `*` and `?`, exists.
fn matches(context: &Context<'_>, chdir: Option<&str>, pattern: &str) -> bool {
    let full = Path::new(chdir.unwrap_or("/")).join(pattern);
    let path = context.host.path(&full);
    let name = full.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains(['*', '?']) {
        return path.symlink_metadata().is_ok();
    }
    let entries = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| super::glob(&name, &entry.file_name().to_string_lossy()))
}

macro_rules! manage_by_running {
    ($kind:ident) => {
        impl Manage for $kind {
            async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
                self.run().check(context).await
            }

            async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
                self.run().apply(context, finding).await
            }

            async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
                self.run().verify(context)
            }
        }
    };
}

manage_by_running!(Command);
manage_by_running!(Shell);

impl Command {
    fn run(&self) -> Run<'_> {
        let argv = match &self.cmd {
            // Refused by `validate` when it can't be split.
            Some(line) => shlex::split(line).unwrap_or_default(),
            None => self.argv.clone(),
        };
        Run {
            argv,
            creates: self.creates.as_deref(),
            removes: self.removes.as_deref(),
            unless: self.unless.as_deref(),
            chdir: self.chdir.as_deref(),
            stdin: self.stdin.as_deref(),
            environment: &self.environment,
            timeout: self.timeout,
        }
    }
}

impl Shell {
    fn run(&self) -> Run<'_> {
        Run {
            argv: vec![self.executable.clone(), "-c".to_owned(), self.cmd.clone()],
            creates: self.creates.as_deref(),
            removes: self.removes.as_deref(),
            unless: self.unless.as_deref(),
            chdir: self.chdir.as_deref(),
            stdin: self.stdin.as_deref(),
            environment: &self.environment,
            timeout: self.timeout,
        }
    }
}
