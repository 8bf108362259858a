//! How a command ended, as its caller sees it.

use std::process::ExitCode;

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    Failed = 1,
    /// Wrong usage or invalid files; nothing was touched.
    Invalid = 2,
    Unreachable = 3,
    /// `plan --detailed-exitcode` found changes.
    Changes = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
