//! A secret text in its owner's editor: in a file of memory where there is some, and wiped afterwards.

use crate::{diagnostic::Diagnostic, model::Secret};
use nix::{
    sys::statfs::{TMPFS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// The text as its owner leaves it; the editor sees a file of this name. An interrupt is the editor's; an end of this process, or of the terminal,
/// wipes the file too.
pub async fn edit(name: &str, text: &Secret) -> Result<Secret, Diagnostic> {
    let line =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok()).filter(|line| !line.is_empty());
    let line = line.unwrap_or_else(|| "vi".to_owned());
    let failed = |why: String| {
        Diagnostic::error(format!("the editor `{line}` did not work: {why}"))
            .help("name one that waits until you are done in EDITOR, for example `EDITOR=nano`")
    };
    let kept = |error: io::Error| Diagnostic::error(format!("the text cannot be laid out to edit: {error}"));
    let words = shlex::split(&line).unwrap_or_default();
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed("it is no command".to_owned()));
    };
    let desk = Desk::new(name, text).map_err(kept)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kept)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(kept)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(kept)?;
    let mut editor = Command::new(program)
        .args(arguments)
        .arg(&desk.file)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let status = loop {
        tokio::select! {
            status = editor.wait() => break status.map_err(|error| failed(error.to_string()))?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => return Err(failed("it was told to end".to_owned())),
            _ = hang_up.recv() => return Err(failed("its terminal is gone".to_owned())),
        }
    };
    if !status.success() {
        return Err(failed(format!("it ended with {status}; nothing was changed")));
    }
    fs::read_to_string(&desk.file).map(Secret::new).map_err(|error| failed(error.to_string()))
}

/// A folder of our own with the text in it, for as long as it is edited.
struct Desk {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Desk {
    fn new(name: &str, text: &Secret) -> io::Result<Desk> {
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("pgfleet-").permissions(private).tempdir_in(memory())?;
        let file = folder.path().join(name);
        let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        handle.write_all(text.expose().as_bytes())?;
        Ok(Desk { folder, file })
    }
}

impl Drop for Desk {
    /// What the editor left beside the file goes too.
    fn drop(&mut self) {
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let length = entry.metadata().map(|found| found.len()).unwrap_or_default();
            // It is removed in any case.
            let _ = fs::OpenOptions::new().write(true).open(entry.path()).and_then(|mut file| {
                io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
                file.sync_all()
            });
        }
    }
}

/// A folder in memory that is this user's, else one on disk.
fn memory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let in_memory = |folder: &Path| statfs(folder).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    let writable = |folder: &Path| access(folder, AccessFlags::W_OK).is_ok();
    runtime
        .into_iter()
        .chain([PathBuf::from("/dev/shm")])
        .find(|folder| in_memory(folder) && writable(folder))
        .unwrap_or_else(std::env::temp_dir)
}
