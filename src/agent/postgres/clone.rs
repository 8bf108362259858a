//! A copy of another server: `pg_basebackup` into a directory beside, then a rename.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::io::AsyncReadExt;

use super::{
    DataDir, Error, Server, Upstream, configure, data_dir, files, follow, lifecycle, tools,
    walsender::Walsender,
};

/// How far a base backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub done_kb: u64,
    /// An estimate of the server's.
    pub total_kb: u64,
}

/// What may happen to data that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the call fails.
    Refuse,
    /// It goes once its replacement is complete. On a volume of its own, where nothing can be put
    /// beside it, it goes before.
    Replace,
}

impl Server {
    /// Copies `upstream` into the data directory. `progress` is called as `pg_basebackup` reports. It is
    /// ended when the caller drops the future; what is in place then is what was there before, or nothing.
    pub async fn clone_from(
        &self,
        upstream: &Upstream,
        existing: Existing,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), Error> {
        let settings = self.settings();
        if let Some(postmaster) = self.adopt() {
            return Err(Error::AlreadyRunning { data_dir: settings.data_dir.clone(), pid: postmaster.pid() });
        }
        self.clear_remains().await?;
        configure::write_pgpass(&settings)?;
        // Nothing is touched before the source is known to be alive and to let us in.
        let mut walsender = Walsender::connect(upstream, &settings.replication).await?;
        walsender.identify_system().await?;
        walsender.close().await;
        let target = Target::prepare(&settings.data_dir, existing)?;
        let mut command = tools::command(&settings.tool("pg_basebackup"));
        command.env("LC_ALL", "C").arg("--pgdata").arg(target.path());
        command.arg("--dbname").arg(conninfo(upstream, &settings));
        command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--progress"]);
        if let Some(slot) = &upstream.slot {
            command.arg(format!("--slot={slot}"));
        }
        let ours =
            ["pgdata", "format", "wal-method", "dbname", "host", "port", "username", "slot", "checkpoint"];
        for (name, value) in settings.basebackup.iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
            command.arg(match value {
                Some(value) => format!("--{name}={value}"),
                None => format!("--{name}"),
            });
        }
        let program = settings.tool("pg_basebackup");
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::Spawn { tool: program, source })?;
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
                let text = String::from_utf8_lossy(&chunk[..count]).replace('\r', "\n");
                for line in text.lines() {
                    match parse_progress(line) {
                        Some(seen) => progress(seen),
                        None => said += &format!("{line}\n"),
                    }
                }
            }
        }
        let status =
            child.wait().await.map_err(|error| tools::failure("pg_basebackup", error.to_string(), &said))?;
        if !status.success() {
            return Err(tools::failure("pg_basebackup", status.to_string(), &said));
        }
        // Whoever starts it by accident gets a standby that waits, not a second primary.
        lifecycle::set_signal_file(target.path(), true)?;
        target.finish().await?;
        self.remember(|memory| *memory = Default::default());
        Ok(())
    }
}

fn conninfo(upstream: &Upstream, settings: &super::Settings) -> String {
    let mut words = follow::address(upstream, &settings.replication, settings);
    words.push(("connect_timeout", "5".to_owned()));
    words.extend(follow::noticing());
    follow::pairs(&words)
}

/// `  1234/56789 kB (2%), 0/1 tablespace`
fn parse_progress(line: &str) -> Option<Progress> {
    let (done, rest) = line.trim().split_once('/')?;
    let (total, _) = rest.split_once(" kB (")?;
    Some(Progress { done_kb: done.parse().ok()?, total_kb: total.parse().ok()? })
}

/// A place for a new cluster: beside the data directory where possible, so that nothing half done is
/// ever at the path that a server starts from. Dropped without `finish`, what was put there goes.
pub(super) struct Target {
    data_dir: PathBuf,
    staging: Option<PathBuf>,
    finished: bool,
}

impl Target {
    pub fn prepare(data_dir: &Path, existing: Existing) -> Result<Target, Error> {
        let occupied = !matches!(data_dir::look(data_dir), DataDir::Missing | DataDir::Empty);
        if occupied && existing == Existing::Refuse {
            return Err(Error::NotEmpty { data_dir: data_dir.to_owned() });
        }
        let beside = files::beside(data_dir, ".new");
        let can_swap = !is_mount_point(data_dir);
        let staging =
            remove_tree(&beside).and_then(|()| create(&beside)).ok().filter(|()| can_swap).map(|()| beside);
        if staging.is_none() {
            empty(data_dir).map_err(Error::file("cannot empty", data_dir))?;
            create(data_dir).map_err(Error::file("cannot create", data_dir))?;
        }
        Ok(Target { data_dir: data_dir.to_owned(), staging, finished: false })
    }

    pub fn path(&self) -> &Path {
        self.staging.as_deref().unwrap_or(&self.data_dir)
    }

    /// Puts the new cluster in place. The old one goes after that.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.finished = true;
        let Some(staging) = self.staging.clone() else { return Ok(()) };
        swap(&staging, &self.data_dir).map_err(Error::file("cannot replace", &self.data_dir))?;
        let _ = files::remove(&files::beside(&self.data_dir, data_dir::REWINDING));
        // What was there before may be large, and nothing waits for it to go.
        tokio::task::spawn_blocking(move || remove_tree(&staging));
        Ok(())
    }
}

/// Puts `new` at `path`, and what was there, if anything, at `new`. In one step where the file system
/// can: then there is a complete cluster at `path` at every moment.
fn swap(new: &Path, path: &Path) -> io::Result<()> {
    if !path.exists() {
        fs::rename(new, path)?;
    } else if exchange(new, path).is_err() {
        let old = files::beside(path, ".old");
        remove_tree(&old)?;
        fs::rename(path, &old)?;
        fs::rename(new, path)?;
        fs::rename(&old, new)?;
    }
    files::sync_parent(path)
}

fn exchange(first: &Path, second: &Path) -> io::Result<()> {
    let (first, second) =
        (CString::new(first.as_os_str().as_bytes())?, CString::new(second.as_os_str().as_bytes())?);
    let here = libc::AT_FDCWD;
    // SAFETY: two paths that end in NUL and outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, here, first.as_ptr(), here, second.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            let _ = match &self.staging {
                Some(staging) => remove_tree(staging),
                None => empty(&self.data_dir),
            };
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn empty(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == "lost+found" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

/// A symbolic link counts too: what it points to must not be replaced by a directory.
fn is_mount_point(path: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (fs::symlink_metadata(path), path.parent().map(fs::metadata)) else {
        return false;
    };
    own.is_symlink() || own.dev() != parent.dev()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_the_tool_prints() {
        let line = "  21504/31245 kB (68%), 0/1 tablespace";
        assert_eq!(parse_progress(line), Some(Progress { done_kb: 21504, total_kb: 31245 }));
        assert_eq!(parse_progress("pg_basebackup: error: could not connect"), None);
    }
}
