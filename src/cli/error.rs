//! How a command fails, and what its caller is told.

use super::Exit;
use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    ui,
};

/// A command that could not do its work.
#[derive(Debug)]
pub enum Error {
    /// Files or arguments are wrong; nothing was touched.
    Invalid(Diagnostics),
    /// A host cannot be reached.
    Unreachable(anyhow::Error, Vec<String>),
    /// Anything else, with what to do next.
    Failed(anyhow::Error, Vec<String>),
}

/// What every command returns.
pub type Outcome = Result<Exit, Error>;

impl Error {
    pub fn failed(error: impl Into<anyhow::Error>) -> Self {
        Error::Failed(error.into(), Vec::new())
    }

    /// A wrong combination of arguments.
    pub fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Error::Invalid(Diagnostics(vec![Diagnostic::error(message).help(next)]))
    }

    pub fn next(self, step: impl Into<String>) -> Self {
        match self {
            Error::Invalid(diagnostics) => Error::Invalid(diagnostics),
            Error::Unreachable(error, mut next) => {
                next.push(step.into());
                Error::Unreachable(error, next)
            }
            Error::Failed(error, mut next) => {
                next.push(step.into());
                Error::Failed(error, next)
            }
        }
    }

    /// What went wrong, in one line.
    pub fn summary(&self) -> String {
        match self {
            Error::Invalid(diagnostics) => {
                diagnostics.0.first().map(|first| first.message.clone()).unwrap_or_default()
            }
            Error::Unreachable(error, _) | Error::Failed(error, _) => format!("{error:#}"),
        }
    }

    /// Tells the user and gives the exit code.
    pub fn report(&self) -> Exit {
        match self {
            Error::Invalid(diagnostics) => {
                diagnostics.0.iter().for_each(ui::diagnostic);
                Exit::Invalid
            }
            Error::Unreachable(error, next) => {
                ui::error(&format!("{error:#}"), next);
                Exit::Unreachable
            }
            Error::Failed(error, next) => {
                ui::error(&format!("{error:#}"), next);
                Exit::Failed
            }
        }
    }
}

impl From<Diagnostics> for Error {
    fn from(diagnostics: Diagnostics) -> Self {
        Error::Invalid(diagnostics)
    }
}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Self {
        Error::Invalid(Diagnostics(vec![diagnostic]))
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Error::failed(error)
    }
}
