//! Processes that outlive the command that starts them: how they are started, found again and ended.
//!
//! A process is known by its id, its start time and the boot of this machine, so that an id that was
//! used again is never mistaken for it.

use super::{Error, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Notes itself in the file $1, moves itself into the cgroups up to `--`, becomes what follows. The
/// note is made by the process itself, so no kill of its parent can leave it running and unknown.
const LAUNCH: &str = r#"
set -e
read -r stat < /proc/$$/stat
read -r boot < /proc/sys/kernel/random/boot_id
echo "$boot $stat" > "$1.new"
mv "$1.new" "$1"
shift
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done
shift
exec "$@"
"#;

/// The name of the script in its own command line, before the note.
const LAUNCH_NAME: &str = "launch";
/// How long a launch may take from the start of the script to the note and the command.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);

/// How often the state of a process is looked at while its end is awaited.
const POLL: Duration = Duration::from_millis(10);

/// A process that was started by this or an earlier command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    pid: i32,
    start_ticks: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

/// Starts `command` in a session of its own, with its output in `log`, noted in `note`.
pub(super) fn launch(note: &Path, log: &Path, cgroups: &[PathBuf], command: &[String]) -> Result<()> {
    // What an earlier process noted there must not be taken for this one's note.
    let _ = fs::remove_file(note);
    let output =
        File::options().create(true).append(true).open(log).map_err(Error::io("cannot open the log", log))?;
    let errors = output.try_clone().map_err(Error::io("cannot open the log", log))?;
    Command::new("setsid")
        .args(["sh", "-c", LAUNCH, LAUNCH_NAME])
        .arg(note)
        .args(cgroups)
        .arg("--")
        .args(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|source| Error::Spawn { program: "setsid".into(), source })?;
    Ok(())
}

/// The process that noted itself in this file, if it still runs.
pub(super) fn noted(note: &Path) -> Option<Tracked> {
    let text = fs::read_to_string(note).ok()?;
    let (boot, stat) = text.split_once(' ')?;
    let current = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let pid = stat.split(' ').next()?.parse().ok()?;
    let tracked = Tracked { pid, start_ticks: parse_stat(stat)?.start_ticks };
    (boot == current.trim() && tracked.runs()).then_some(tracked)
}

/// As [`noted`] for a process that is being launched; none if it ended or did not start in time.
pub(super) fn await_note(note: &Path, limit: Duration) -> Option<Tracked> {
    let deadline = Instant::now() + limit;
    loop {
        match noted(note) {
            None if !note.exists() && Instant::now() < deadline => thread::sleep(POLL),
            found => return found,
        }
    }
}

impl Tracked {
    /// Whether it still runs; one that ended and was not yet reaped does not.
    pub fn runs(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !"ZX".contains(stat.state))
    }

    /// Its network namespace, as a file.
    pub fn network(self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// The processes that it started itself.
    pub fn children(self) -> Vec<Tracked> {
        all().filter(|(_, stat)| stat.parent == self.pid).map(tracked).collect()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, signal: Signal) -> Result<()> {
        self.send(Pid::from_raw(self.pid), signal)
    }

    /// Sends a signal to it and to everything in its session's process group, which it leads.
    pub fn signal_group(self, signal: Signal) -> Result<()> {
        self.send(Pid::from_raw(-self.pid), signal)
    }

    fn send(self, to: Pid, signal: Signal) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        match signal::kill(to, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::Process { what: "cannot signal", pid: self.pid, source: errno.into() }),
        }
    }

    /// Waits for its end; false if it still runs after `limit`.
    pub fn wait(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.runs() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

/// Waits until every launch with a note below `folder` is noted and is what it was to become. Whoever
/// launched it may have been killed, and the launch goes on by itself.
pub(super) fn settle(folder: &Path) {
    let deadline = Instant::now() + LAUNCH_LIMIT;
    while all().any(|(pid, _)| is_launch(pid, folder)) && Instant::now() < deadline {
        thread::sleep(POLL);
    }
}

fn is_launch(pid: i32, folder: &Path) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split('\0').skip_while(|word| *word != LAUNCH_NAME).skip(1);
    words.next().is_some_and(|note| Path::new(note).starts_with(folder))
}

/// Every process whose network is the namespace behind `path`.
pub(super) fn in_network(path: &Path) -> Vec<Tracked> {
    let Ok(namespace) = fs::metadata(path) else { return Vec::new() };
    all()
        .filter(|(pid, _)| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|own| (own.dev(), own.ino()) == (namespace.dev(), namespace.ino()))
        })
        .map(tracked)
        .filter(|process| process.runs())
        .collect()
}

/// Ends the processes at once and waits until they are gone.
pub(super) fn end(processes: &[Tracked]) -> Result<()> {
    for process in processes {
        process.signal(Signal::SIGKILL)?;
    }
    for process in processes {
        if !process.wait(Duration::from_secs(30)) {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(Error::Process { what: "cannot end", pid: process.pid, source });
        }
    }
    Ok(())
}

fn tracked((pid, stat): (i32, Stat)) -> Tracked {
    Tracked { pid, start_ticks: stat.start_ticks }
}

fn all() -> impl Iterator<Item = (i32, Stat)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(pid)?))
    })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may itself contain blanks and parentheses.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::{super::layout, *};

    #[test]
    fn reads_a_stat_with_a_hostile_name() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = parse_stat(text).expect("valid");
        assert_eq!((stat.state, stat.parent, stat.start_ticks), ('S', 7, 987654));
    }

    #[test]
    fn finds_a_launched_process_again_and_ends_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let note = folder.path().join("process");
        launch(&note, &folder.path().join("log"), &[], &["sleep".into(), "600".into()]).expect("started");
        let process = await_note(&note, Duration::from_secs(10))
            .unwrap_or_else(|| panic!("{}", layout::tail(&folder.path().join("log"), 5)));
        assert!(process.runs());
        end(&[process]).expect("ended");
        assert!(!process.runs());
        assert_eq!(noted(&note), None);
    }
}
