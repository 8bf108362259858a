//! What goes wrong with a server, in words for whoever has to repair it.

use std::{io, path::PathBuf, time::Duration};

/// Why something asked of the server was not done. The message says what failed and what it said last.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run {}: {source}", tool.display())]
    Spawn { tool: PathBuf, source: io::Error },
    #[error("{tool} failed ({status}){}", indented(last_lines))]
    Tool { tool: String, status: String, last_lines: String },
    #[error("PostgreSQL did not start: {why}{}", indented(last_lines))]
    Start { why: String, last_lines: String },
    #[error("{what} took longer than {limit:?}")]
    Timeout { what: &'static str, limit: Duration },
    #[error("cannot connect to PostgreSQL at {at}: {why}")]
    Connect { at: String, why: String },
    #[error("{doing} failed: {why}")]
    Sql { doing: &'static str, why: String },
    #[error("{doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} has something unexpected: {what}", path.display())]
    Unexpected { path: PathBuf, what: String },
    #[error("PostgreSQL refuses its configuration: {0}")]
    Configuration(String),
    #[error("PostgreSQL is not running in {}", .0.display())]
    NotRunning(PathBuf),
    #[error("PostgreSQL is already running in {} as process {pid}", data_dir.display())]
    AlreadyRunning { data_dir: PathBuf, pid: i32 },
    #[error("{} is not empty; nothing in it was touched", data_dir.display())]
    NotEmpty { data_dir: PathBuf },
    #[error("the server at {at} {why}")]
    Upstream { at: String, why: String },
}

impl Error {
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { doing, path, source }
    }

    pub(super) fn sql(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |error| Error::Sql { doing, why: reason(&error) }
    }
}

/// What the server said, without the layers around it.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{}{detail} [{}]", db.message(), db.code().code())
        }
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("\n    {line}")).collect()
}
