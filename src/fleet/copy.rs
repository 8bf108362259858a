//! Files to and from hosts. What arrives is written beside, synced, and renamed: nobody ever sees half of it.

use super::{Place, Trouble, on_each};
use crate::{
    cluster::Access,
    engine::{Event, Finding, Sink},
    model::HostName,
    remote::protocol::Effect,
    ssh::{Exit, Process, Session, quote},
};
use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// How much travels at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Puts a file of this machine on every host, with its mode. The results are the paths there.
pub async fn push(
    access: &Access,
    hosts: &[HostName],
    forks: usize,
    (local, to): (&Path, &Place),
    sink: &Sink,
) -> Vec<(HostName, Result<String, Trouble>)> {
    on_each(access, hosts, forks, |host, session| async move {
        let step = format!("{} to {}", local.display(), to.path);
        started(sink, host, &step);
        let done = push_one(session, local, to, &told(sink, host)).await;
        finished(sink, host, done.as_ref().map_or(&step, |path| path), &done);
        done
    })
    .await
}

async fn push_one(
    session: &Session,
    local: &Path,
    to: &Place,
    tell: &impl Fn(u64),
) -> Result<String, Trouble> {
    let unreadable = |error: io::Error| {
        Trouble::here(
            format!("{} cannot be read: {error}", local.display()),
            "Check the path and its rights.",
        )
    };
    let mut file = tokio::fs::File::open(local).await.map_err(unreadable)?;
    let meta = file.metadata().await.map_err(unreadable)?;
    let name = local.file_name().unwrap_or_default().to_string_lossy();
    let script = push_script(to, &name, meta.len(), meta.permissions().mode() & 0o7777);
    let mut process = session.open(&script, session.becomes()).await?;
    let sent = pump(&mut file, &mut process.stdin, tell).await;
    let _ = process.stdin.shutdown().await;
    let mut said = String::new();
    let _ = process.stdout.read_to_string(&mut said).await;
    judge(&mut process, &to.path).await?;
    // The host checks the length; only a file that could not be read here is news.
    sent.map_err(unreadable)?;
    Ok(said.trim_end_matches('\n').to_owned())
}

/// Receives into a file beside the target, and renames it once it is whole. A link stays a link.
fn push_script(to: &Place, name: &str, bytes: u64, mode: u32) -> String {
    format!(
        "p={path}; n={name}; \
         case $p in */) d=1;; *) d=;; esac; if test -n \"$d\" || test -d \"$p\"; then p=${{p%/}}/$n; fi; \
         if test -L \"$p\"; then p=$(readlink -f -- \"$p\"); fi; \
         if test -d \"$p\"; then echo \"$p is a folder\" >&2; exit 44; fi; \
         t=$(dirname -- \"$p\")/.$(basename -- \"$p\").{nonce:016x}; umask 077; \
         trap 'rm -f -- \"$t\"' EXIT; trap 'exit 129' HUP INT TERM PIPE; \
         cat >\"$t\" || exit 41; \
         if test \"$(wc -c <\"$t\")\" -ne {bytes}; then echo \"less than all of it arrived\" >&2; exit 43; fi; \
         chmod {mode:o} -- \"$t\" && sync -- \"$t\" && mv -fT -- \"$t\" \"$p\" && sync -- \"$(dirname -- \"$p\")\" \
         || exit 42; printf '%s\\n' \"$p\"",
        path = quote(&to.path),
        name = quote(name),
        nonce = rand::random::<u64>(),
    )
}

/// Where what is pulled goes to.
#[derive(Clone, Copy)]
pub struct Into<'a> {
    pub local: &'a Path,
    /// Below it a folder per host.
    pub per_host: bool,
}

/// Fetches a file of every host, with its mode. The results are the paths here.
pub async fn pull(
    access: &Access,
    hosts: &[HostName],
    forks: usize,
    (from, local): (&Place, &Path),
    sink: &Sink,
) -> Vec<(HostName, Result<PathBuf, Trouble>)> {
    let into = Into { local, per_host: hosts.len() > 1 };
    on_each(access, hosts, forks, |host, session| async move {
        let step = format!("{} of {host}", from.path);
        started(sink, host, &step);
        let done = pull_one(host, session, from, into, &told(sink, host)).await;
        let step = done.as_ref().map_or(step, |path| path.display().to_string());
        finished(sink, host, &step, &done);
        done
    })
    .await
}

async fn pull_one(
    host: &HostName,
    session: &Session,
    from: &Place,
    into: Into<'_>,
    tell: &impl Fn(u64),
) -> Result<PathBuf, Trouble> {
    let target = target(host, from, into);
    let unwritable = |error: io::Error| {
        let message = format!("{} cannot be written: {error}", target.display());
        Trouble::here(message, "Check that the folder exists, may be written, and has room.")
    };
    let script = format!(
        "p={path}; if test -d \"$p\"; then echo \"$p is a folder\" >&2; exit 44; fi; \
         exec 3<\"$p\" && stat -Lc %a -- \"$p\" && exec cat <&3",
        path = quote(&from.path)
    );
    let mut process = session.open(&script, session.becomes()).await?;
    let _ = process.stdin.shutdown().await;
    let Some(mode) = mode(&mut process).await else {
        judge(&mut process, &from.path).await?;
        return Err(Trouble::here("it does not say the file's mode", "Is `stat` of coreutils there?"));
    };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if into.per_host {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    let beside = tempfile::Builder::new().prefix(".pgfleet-").tempfile_in(folder).map_err(unwritable)?;
    let mut file = tokio::fs::File::from_std(beside.reopen().map_err(unwritable)?);
    pump(&mut process.stdout, &mut file, tell).await.map_err(unwritable)?;
    file.sync_all().await.map_err(unwritable)?;
    // The exit code comes with the end of the file alone: without it, it may be half a file.
    judge(&mut process, &from.path).await?;
    beside.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(unwritable)?;
    beside.persist(&target).map_err(|error| unwritable(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)?;
    Ok(target)
}

/// The path here: below a folder by the file's own name.
fn target(host: &HostName, from: &Place, into: Into<'_>) -> PathBuf {
    let name = from.file_name().unwrap_or_default();
    let as_folder = into.local.is_dir() || into.local.as_os_str().as_encoded_bytes().ends_with(b"/");
    match (into.per_host, as_folder) {
        (true, _) => into.local.join(host.as_str()).join(name),
        (false, true) => into.local.join(name),
        (false, false) => into.local.to_owned(),
    }
}

/// The line with the mode that comes before the file.
async fn mode(process: &mut Process) -> Option<u32> {
    let mut line = Vec::new();
    while let Ok(byte) = process.stdout.read_u8().await {
        if byte == b'\n' {
            return u32::from_str_radix(std::str::from_utf8(&line).ok()?, 8).ok();
        }
        line.push(byte);
    }
    None
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    tell: &impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut moved = 0;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.flush().await;
        }
        match to.write_all(&buffer[..count]).await {
            Ok(()) => {}
            // The other side says by its exit code why it wants no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
        moved += count as u64;
        tell(moved);
    }
}

/// What the script's end means.
async fn judge(process: &mut Process, path: &str) -> Result<(), Trouble> {
    let exit = process.wait().await;
    let said = process.stderr.last_lines(3).join("; ");
    match exit {
        Exit::Status(0) => Ok(()),
        Exit::Lost => Err(Trouble {
            message: "the connection was lost on the way".to_owned(),
            next_step: "Run it again; nothing half-written is left there.".to_owned(),
            unreachable: true,
        }),
        Exit::Status(44) => Err(Trouble::here(said, "Name a file; a folder travels as an archive.")),
        _ if said.contains("Permission denied") => {
            Err(Trouble::here(said, "Add --become, to do it as root."))
        }
        _ if said.is_empty() => Err(Trouble::here(format!("{path}: {exit:?}"), "Look at the host.")),
        _ => Err(Trouble::here(said, "Check the path there, and the room on its disk.")),
    }
}

fn started(sink: &Sink, host: &HostName, step: &str) {
    let _ = sink.send(Event::StepStarted { host: host.clone(), step: step.to_owned() });
}

/// Tells how much has travelled, each time it is some more.
fn told<'s>(sink: &'s Sink, host: &'s HostName) -> impl Fn(u64) + 's {
    const OFTEN_BYTES: u64 = 8 * 1024 * 1024;
    move |moved| {
        if moved / OFTEN_BYTES > (moved - moved.min(PIECE_BYTES as u64)) / OFTEN_BYTES {
            let message = format!("{} MiB have travelled", moved / (1024 * 1024));
            let _ = sink.send(Event::Waiting { host: host.clone(), message });
        }
    }
}

fn finished<T>(sink: &Sink, host: &HostName, step: &str, done: &Result<T, Trouble>) {
    if done.is_ok() {
        let finding =
            Finding::Changed { diff: String::new(), effect: Effect::None, drift: None, warnings: Vec::new() };
        let _ = sink.send(Event::StepFinished { host: host.clone(), step: step.to_owned(), finding });
    }
}
