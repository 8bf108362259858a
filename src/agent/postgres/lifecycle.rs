//! Starting, stopping and finding the postmaster.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use super::{
    ControlData, DataDir, Error, Postmaster, Role, Server, Started,
    configure::Orders,
    data_dir, files,
    parameters::Plan,
    process::{self, PidFile, Readiness},
    tools,
};

/// How often the pid file is read while a postmaster comes up.
const POLL: Duration = Duration::from_millis(10);
/// How long a postmaster that is not even in its pid file may take beyond our patience.
const HUNG: Duration = Duration::from_secs(10);
/// What each stage of an escalation gets: SIGQUIT first, then SIGKILL.
const ESCALATION: Duration = Duration::from_millis(300);

/// How a server is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes a shutdown checkpoint, waits until walsenders have sent it.
    Fast,
    /// Drops everything; the next start recovers.
    Immediate,
}

/// A server that is down: no process of it is left.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// It did not go in time and was killed.
    pub killed: bool,
    pub control: Option<ControlData>,
}

impl Server {
    /// The live postmaster of the data directory, whoever started it.
    pub fn adopt(&self) -> Option<Postmaster> {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if child.as_ref().is_none_or(|postmaster| !postmaster.is_alive()) {
            *child = Postmaster::of(&self.settings().data_dir);
        }
        child.clone()
    }

    /// Resolves at once when the postmaster is gone, adopted or started here; also when there is none.
    pub async fn exited(&self) {
        if let Some(postmaster) = self.adopt() {
            postmaster.exited().await;
        }
    }

    /// Writes the configuration and launches `postgres`, in a session of its own: it survives the agent.
    /// Returns as soon as it accepts connections, or after `patience` while it is still recovering.
    /// Errors: it is running already, the data directory is not usable, or it came up and went again;
    /// then with its last lines.
    pub async fn start(&self, role: &Role, patience: Duration) -> Result<Started, Error> {
        let settings = self.settings();
        if let Some(postmaster) = self.adopt() {
            return Err(Error::AlreadyRunning { data_dir: settings.data_dir.clone(), pid: postmaster.pid() });
        }
        match data_dir::look(&settings.data_dir) {
            DataDir::Initialised { .. } => {}
            state => {
                let what = format!("no cluster to start: {state:?}");
                return Err(Error::Unexpected { path: settings.data_dir.clone(), what });
            }
        }
        self.clear_remains().await?;
        let control = self.control_data().await?;
        let standby = matches!(role, Role::Standby { .. });
        let orders = self.orders()?.for_role(role, &settings);
        let plan = self.plan(standby.then_some(&control.limits)).await?;
        self.write_files(&orders, &plan)?;
        set_signal_file(&settings.data_dir, standby)?;
        self.launch(&plan, patience).await
    }

    /// Ends what is left of a postmaster that was killed: its backends may still hold the shared memory,
    /// which keeps a new one from starting, and may even still be writing.
    pub async fn clear_remains(&self) -> Result<(), Error> {
        let settings = self.settings();
        if self.adopt().is_some() {
            return Ok(());
        }
        for _ in 0..100 {
            let remains = process::working_in(&settings.data_dir);
            if remains.is_empty() {
                return self.clear_pid_file();
            }
            for process in &remains {
                let _ = process.signal(Signal::SIGKILL);
            }
            sleep(POLL).await;
        }
        let path = settings.data_dir.clone();
        Err(Error::Unexpected { path, what: "processes of an earlier server that do not end".to_owned() })
    }

    /// After a power loss the number in the pid file may belong to an unrelated process of the same
    /// user, and PostgreSQL would refuse to start. Nothing works in the data directory: it is stale.
    fn clear_pid_file(&self) -> Result<(), Error> {
        let path = self.settings().data_dir.join("postmaster.pid");
        files::remove(&path).map(drop).map_err(Error::file("cannot remove", path))
    }

    async fn launch(&self, plan: &Plan, patience: Duration) -> Result<Started, Error> {
        let settings = self.settings();
        let program = settings.tool("postgres");
        let mut command = tools::command(&program);
        command.arg("-D").arg(&settings.data_dir);
        if settings.config_dir.is_some() {
            command
                .arg("-c")
                .arg(format!("config_file={}", settings.config_dir().join("postgresql.conf").display()));
        }
        for (name, value) in &plan.command_line {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let (log, offset) = open_log(&settings.log_file)?;
        let second = log.try_clone().map_err(Error::file("cannot open", &settings.log_file))?;
        command.stdout(log).stderr(second);
        // SAFETY: `setsid` and `umask` may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o077);
                nix::unistd::setsid().map(drop).map_err(Into::into)
            });
        }
        let mut child = command.spawn().map_err(|source| Error::Spawn { tool: program.clone(), source })?;
        let pid = child.id().map_or(0, |pid| pid as i32);
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.start_failure(format!("it ended with {status}"), offset));
            }
            let file = PidFile::read(&settings.data_dir).filter(|file| file.pid == pid);
            let readiness = file.map(|file| file.readiness);
            let accepting = matches!(readiness, Some(Readiness::Ready | Readiness::Standby));
            if (accepting || begun.elapsed() >= patience)
                && let Some(postmaster) = self.adopt()
            {
                // Somebody has to take its exit status, or it stays behind as a zombie.
                tokio::spawn(async move { child.wait().await });
                return Ok(Started { postmaster, accepting, unknown_parameters: plan.unknown.clone() });
            }
            if begun.elapsed() >= patience + HUNG {
                let _ = child.kill().await;
                return Err(self.start_failure("it wrote no pid file and was ended".to_owned(), offset));
            }
            sleep(POLL).await;
        }
    }

    /// The last lines, from where the server writes them: its own log once the collector has it.
    fn start_failure(&self, why: String, offset: u64) -> Error {
        let settings = self.settings();
        let mut last_lines = files::tail(&settings.log_file, offset, 8);
        if last_lines.contains("logging collector")
            && let Ok(Some(current)) = files::read(&settings.data_dir.join("current_logfiles"))
            && let Some(log) = current.lines().find_map(|line| line.strip_prefix("stderr "))
        {
            last_lines = files::tail(&settings.data_dir.join(log), 0, 8);
        }
        Error::Start { why, last_lines }
    }

    /// Brings the server down and waits until no process of it is left. A CHECKPOINT beforehand makes
    /// the shutdown itself short; it gets at most half of `limit`. What has not gone within `limit` is
    /// killed, which takes half a second at most.
    pub async fn stop(
        &self,
        mode: StopMode,
        checkpoint_first: bool,
        limit: Duration,
    ) -> Result<Stopped, Error> {
        let begun = Instant::now();
        let Some(postmaster) = self.adopt() else {
            self.clear_remains().await?;
            return Ok(Stopped { killed: false, control: self.control_data().await.ok() });
        };
        if checkpoint_first && mode == StopMode::Fast {
            // A checkpoint that fails or takes too long makes the stop slower, not wrong.
            let _ = timeout(limit / 2, self.checkpoint()).await;
        }
        self.disconnect().await;
        let signal = match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        let _ = postmaster.signal(signal);
        let orderly = timeout(limit.saturating_sub(begun.elapsed()), postmaster.exited()).await.is_ok();
        if !orderly {
            kill(&postmaster).await;
        }
        self.clear_remains().await?;
        Ok(Stopped { killed: !orderly, control: self.control_data().await.ok() })
    }

    /// Stops fast, after a CHECKPOINT, and starts again in `role`. `limit` holds for each of the two.
    pub async fn restart(&self, role: &Role, limit: Duration) -> Result<Started, Error> {
        self.stop(StopMode::Fast, true, limit).await?;
        self.start(role, limit).await
    }

    /// Writes a checkpoint now; on a standby a restartpoint. It takes as long as the disk needs.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let client = self.connect(self.settings().query_timeout).await?;
        client.batch_execute("SET statement_timeout = 0; CHECKPOINT").await.map_err(Error::sql("CHECKPOINT"))
    }

    /// Makes the server read its configuration files again.
    pub fn reload(&self) -> Result<(), Error> {
        self.signal(Signal::SIGHUP)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let data_dir = &self.settings().data_dir;
        let postmaster = self.adopt().ok_or_else(|| Error::NotRunning(data_dir.clone()))?;
        postmaster.signal(signal).map_err(|_| Error::NotRunning(data_dir.clone()))
    }
}

/// SIGQUIT to all, then SIGKILL to all. A stopped process only dies of the latter; and a backend that
/// outlives its postmaster could still write.
async fn kill(postmaster: &Postmaster) {
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let children = postmaster.children();
        // The postmaster first: it must not start new ones in place of those that die.
        let _ = postmaster.signal(signal);
        for child in children {
            let _ = child.signal(signal);
        }
        if timeout(ESCALATION, postmaster.exited()).await.is_ok() {
            return;
        }
    }
}

/// `standby.signal` makes it a standby. A `recovery.signal` would end in a promotion that nobody ordered.
pub(super) fn set_signal_file(data_dir: &Path, standby: bool) -> Result<(), Error> {
    let remove = |name: &str| {
        let path = data_dir.join(name);
        files::remove(&path).map(drop).map_err(Error::file("cannot remove", path))
    };
    remove("recovery.signal")?;
    if standby {
        files::write(&data_dir.join("standby.signal"), "", 0o600).map(drop)
    } else {
        remove("standby.signal")
    }
}

fn open_log(path: &Path) -> Result<(fs::File, u64), Error> {
    let open = || {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let log = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let offset = log.metadata()?.len();
        Ok((log, offset))
    };
    open().map_err(Error::file("cannot open", path))
}

impl Orders {
    /// The orders that starting in `role` amounts to.
    fn for_role(self, role: &Role, settings: &super::Settings) -> Orders {
        match role {
            Role::Primary => self.following(None, settings),
            Role::Standby { upstream } => self.following(upstream.as_ref(), settings),
        }
    }
}
