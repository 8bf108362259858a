//! `pgfleet agent`: the HA agent beside a PostgreSQL, and what goes with it.

use super::{
    Exit,
    error::{Error, Outcome},
};
use crate::{
    agent::{
        config::{Cache, Config},
        core, fence,
        postgres::Server,
        run::{self, Ended},
    },
    contract::DynamicConfig,
    ui,
};
use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Stdio};
use tracing_subscriber::EnvFilter;

/// Run the HA agent of one PostgreSQL, and what goes with it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the agent in the foreground
    ///
    /// SIGTERM shuts PostgreSQL down in order and hands a leader's key over; SIGHUP reads the
    /// configuration again; SIGUSR1 ends the agent alone, for the next one to adopt PostgreSQL.
    Run {
        /// The configuration: a YAML file, or a directory of them
        config: PathBuf,
    },
    /// Keep PostgreSQL from staying writable without a lease, after its agent has ended
    ///
    /// For ExecStopPost= of the agent's unit. Leaves PostgreSQL to the next agent for as long as the
    /// lease lasts, and in a paused cluster altogether.
    Fence {
        config: PathBuf,
        /// Stay and watch, instead of leaving a watcher behind
        #[arg(long)]
        guard: bool,
    },
    /// Print the rules that the agent decides by
    Rules,
}

pub fn run(args: Args) -> Outcome {
    match args.command {
        Command::Run { config: path } => {
            let config = load(&path)?;
            log(&config);
            super::sparingly(async {
                match run::run(config, path).await.map_err(Error::failed)? {
                    Ended::InOrder => tracing::info!("ended in order"),
                    Ended::LeavingPostgres => tracing::info!("ended; PostgreSQL is left to the next agent"),
                }
                Ok(Exit::Done)
            })
        }
        Command::Fence { config, guard } => super::sparingly(fence(config, guard)),
        Command::Rules => {
            ui::line(&rules());
            Ok(Exit::Done)
        }
    }
}

fn load(path: &std::path::Path) -> Result<Config, Error> {
    let (config, warnings) = Config::load(path, std::env::vars())?;
    warnings.iter().for_each(ui::diagnostic);
    Ok(config)
}

/// The log goes to standard error; a service manager adds the time.
fn log(config: &Config) {
    let level = match config.log.level.as_str() {
        "WARNING" => "warn",
        "CRITICAL" => "error",
        other => other,
    };
    let filter =
        EnvFilter::try_from_env("PGFLEET_LOG").unwrap_or_else(|_| EnvFilter::new(level.to_lowercase()));
    let managed = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // The second time a subscriber is set is an error; there is no second time.
    let _ = match (config.log.json, managed) {
        (true, _) => subscriber.json().try_init(),
        (false, true) => subscriber.with_target(false).without_time().try_init(),
        (false, false) => subscriber.with_target(false).try_init(),
    };
}

/// Returns at once where there is nothing to do, or leaves a watcher behind.
async fn fence(path: PathBuf, stay: bool) -> Outcome {
    let config = load(&path)?;
    let server = Server::new(config.effective(&DynamicConfig::default()).settings);
    let file = fence::LeaseFile::new(&config.postgresql.data_dir, config.name.clone());
    let paused = || {
        let known = Cache::in_data_dir(&config.postgresql.data_dir).load();
        known.is_some_and(|dynamic| dynamic.pause)
    };
    if server.adopt().is_none() || paused() {
        return Ok(Exit::Done);
    }
    if stay || file.read().is_none() {
        let how = fence::guard(&server, &file, paused).await.map_err(|error| {
            Error::failed(error).next("stop PostgreSQL by hand: without a lease it must not take writes")
        })?;
        ui::note(&format!("fence: {how:?}"));
        return Ok(Exit::Done);
    }
    let executable = std::env::current_exe().map_err(Error::failed)?;
    let mut watcher = std::process::Command::new(executable);
    watcher.args(["agent", "fence", "--guard"]).arg(path).stdin(Stdio::null());
    // SAFETY: `setsid` may be called between fork and exec.
    unsafe {
        watcher.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    watcher.spawn().map_err(Error::failed)?;
    Ok(Exit::Done)
}

/// A table in Markdown, for the documentation.
fn rules() -> String {
    let mut text = "| lane | rule | why |\n|---|---|---|\n".to_owned();
    for rule in core::rules() {
        text.push_str(&format!("| {:?} | `{}` | {} |\n", rule.lane, rule.id, rule.why));
    }
    text.trim_end().to_owned()
}
