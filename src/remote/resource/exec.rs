//! Commands, for what no other resource covers.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

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
