//! Our own executable on a host: is it there already, and if not, bring it.
//!
//! It lives under a name that contains its SHA-256, is written beside, checked, synced and renamed, so
//! what is there is whole; `current` is a symbolic link to the one that was used last.

use super::{
    channel::{Exit, Process},
    error::{SessionError, SessionProblem},
    launch::quote,
    session::Session,
};
use crate::model::Digest;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::OnceCell,
};

/// Where executables are kept on a host.
const FOLDER: &str = "/var/lib/pgfleet/bin";

/// A processor architecture, by the name that `uname -m` gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture(String);

impl Architecture {
    /// The one that this program was built for.
    pub fn own() -> Self {
        Self::named(std::env::consts::ARCH)
    }

    /// Takes Debian's and Go's names too.
    pub fn named(name: &str) -> Self {
        Self(match name {
            "amd64" | "x86-64" => "x86_64".to_owned(),
            "arm64" => "aarch64".to_owned(),
            "powerpc64le" => "ppc64le".to_owned(),
            other => other.to_owned(),
        })
    }

    /// The one that an ELF file was built for; `None` when it is no Linux executable that we know.
    fn of_elf(start: &[u8]) -> Option<Self> {
        let machine = start.get(18..20).filter(|_| start.starts_with(b"\x7fELF"))?;
        let little = start[5] == 1;
        let pair = [machine[0], machine[1]];
        let number = if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) };
        let name = match number {
            3 => "i686",
            21 => {
                if little {
                    "ppc64le"
                } else {
                    "ppc64"
                }
            }
            22 => "s390x",
            40 => "armv7l",
            62 => "x86_64",
            183 => "aarch64",
            243 => "riscv64",
            _ => return None,
        };
        Some(Self(name.to_owned()))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A build of this program, on this machine.
#[derive(Clone, Debug)]
pub struct LocalExecutable {
    path: PathBuf,
    digest: Digest,
    architecture: Architecture,
    /// What is sent, once somebody needs it: hosts of one run share it.
    compressed: Arc<OnceCell<Bytes>>,
}

impl LocalExecutable {
    /// Reads and digests the file at `path`. Blocks: call it off the async runtime's threads.
    pub fn read(path: &Path) -> Result<Self, SessionProblem> {
        let unreadable = |source| SessionProblem::LocalFile { path: path.to_owned(), source };
        let content = std::fs::read(path).map_err(unreadable)?;
        let architecture = Architecture::of_elf(&content).ok_or_else(|| {
            unreadable(std::io::Error::other("it is not a Linux executable (ELF) of a known architecture"))
        })?;
        Ok(Self {
            path: path.to_owned(),
            digest: Digest::of(&content),
            architecture,
            compressed: Arc::default(),
        })
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where it is, or will be, on a host.
    pub fn remote_path(&self) -> String {
        format!("{FOLDER}/pgfleet-{}", self.digest.short())
    }

    async fn compressed(&self) -> std::io::Result<Bytes> {
        let compress = async || {
            let path = self.path.clone();
            let work = tokio::task::spawn_blocking(move || {
                let content = std::fs::read(path)?;
                // Fast rather than small: a local network is rarely slower than the compressor.
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&content)?;
                encoder.finish().map(Bytes::from)
            });
            work.await.map_err(std::io::Error::other)?
        };
        self.compressed.get_or_try_init(compress).await.cloned()
    }
}

/// The builds that this run can put on hosts, one for each architecture.
#[derive(Clone, Debug, Default)]
pub struct Executables(BTreeMap<Architecture, LocalExecutable>);

impl Executables {
    /// The running program itself, where it is a Linux executable. Blocks for as long as it takes to
    /// digest it.
    pub fn own() -> Result<Self, SessionProblem> {
        let mut executables = Self::default();
        if cfg!(target_os = "linux") {
            // The link still leads to the running file after an upgrade has replaced its name.
            executables.add(LocalExecutable::read(Path::new("/proc/self/exe"))?);
        }
        Ok(executables)
    }

    /// Adds a build, or replaces the one for the same architecture.
    pub fn add(&mut self, executable: LocalExecutable) {
        self.0.insert(executable.architecture.clone(), executable);
    }

    fn architectures(&self) -> String {
        self.0.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What the host said at first contact.
enum Contact {
    /// The executable is there, and runs.
    Runs(Process),
    Missing {
        architecture: Architecture,
        has_gzip: bool,
    },
}

impl Session {
    /// Starts `pgfleet ARGUMENTS` on the host, with `become` as the user that the target says. When the
    /// executable is there already this is one command; otherwise it is uploaded first.
    pub async fn start(
        &self,
        executables: &Executables,
        arguments: &str,
        r#become: bool,
    ) -> Result<Process, SessionError> {
        match self.contact(executables, arguments, r#become).await? {
            Contact::Runs(process) => Ok(process),
            Contact::Missing { architecture, has_gzip } => {
                let executable = self.fitting(executables, &architecture)?;
                self.upload(executable, has_gzip, r#become).await?;
                match self.contact(executables, arguments, r#become).await? {
                    Contact::Runs(process) => Ok(process),
                    Contact::Missing { .. } => Err(self.error(SessionProblem::Upload {
                        path: executable.remote_path(),
                        said: "it was gone right after".to_owned(),
                    })),
                }
            }
        }
    }

    /// Starts the hands: `pgfleet remote`, which speaks the protocol on its standard input and output.
    pub async fn start_remote(
        &self,
        executables: &Executables,
        r#become: bool,
    ) -> Result<Process, SessionError> {
        self.start(executables, "remote", r#become).await
    }

    /// Makes sure that the executable is on the host; returns its path there.
    pub async fn deploy_executable(
        &self,
        executables: &Executables,
        r#become: bool,
    ) -> Result<String, SessionError> {
        let output = self.run_as("uname -m; command -v gzip", b"", r#become).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = said.lines();
        let architecture = Architecture::named(lines.next().unwrap_or_default());
        let executable = self.fitting(executables, &architecture)?;
        let path = executable.remote_path();
        let there = self.run_as(&format!("test -x {}", quote(&path)), b"", r#become).await?;
        if there.status != 0 {
            self.upload(executable, lines.next().is_some(), r#become).await?;
        }
        Ok(path)
    }

    fn fitting<'a>(
        &self,
        executables: &'a Executables,
        architecture: &Architecture,
    ) -> Result<&'a LocalExecutable, SessionError> {
        executables.0.get(architecture).ok_or_else(|| {
            let have = executables.architectures();
            self.error(SessionProblem::NoExecutableFor { host: architecture.to_string(), have })
        })
    }

    async fn contact(
        &self,
        executables: &Executables,
        arguments: &str,
        r#become: bool,
    ) -> Result<Contact, SessionError> {
        let mut process = self.open(&contact_script(executables, arguments), r#become).await?;
        let mut line = Vec::new();
        loop {
            match process.stdout.read_u8().await {
                Ok(b'\n') => break,
                Ok(byte) => line.push(byte),
                Err(_) => {
                    let exit = process.wait().await;
                    let said = process.stderr.last_lines(5).join("; ");
                    return Err(self.error(SessionProblem::NotStarted { said: format!("{said} ({exit:?})") }));
                }
            }
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("runs"), ..) => Ok(Contact::Runs(process)),
            (Some("missing"), Some(architecture), gzip) => Ok(Contact::Missing {
                architecture: Architecture::named(architecture),
                has_gzip: gzip.is_some(),
            }),
            _ => Err(self.error(SessionProblem::NotStarted { said: line })),
        }
    }

    async fn upload(
        &self,
        executable: &LocalExecutable,
        has_gzip: bool,
        r#become: bool,
    ) -> Result<(), SessionError> {
        let path = executable.remote_path();
        let local = |source| self.error(SessionProblem::LocalFile { path: executable.path.clone(), source });
        let content = if has_gzip {
            executable.compressed().await.map_err(local)?
        } else {
            Bytes::from(tokio::fs::read(&executable.path).await.map_err(local)?)
        };
        let mut process = self.open(&upload_script(executable, has_gzip), r#become).await?;
        // When the far side gives up early, its exit code says more than the broken pipe.
        if process.stdin.write_all(&content).await.is_ok() {
            let _ = process.stdin.shutdown().await;
        }
        let mut said = Vec::new();
        let _ = process.stdout.read_to_end(&mut said).await;
        match process.wait().await {
            Exit::Status(0) => Ok(()),
            Exit::Lost => Err(self.error(SessionProblem::Lost { why: "during the upload".to_owned() })),
            exit => Err(self.error(why_upload_failed(&exit, &process.stderr.text(), &path))),
        }
    }
}

fn contact_script(executables: &Executables, arguments: &str) -> String {
    let names: String = executables
        .0
        .iter()
        .map(|(architecture, executable)| format!("{architecture}) s={};; ", executable.digest.short()))
        .collect();
    format!(
        "d={FOLDER}; m=$(uname -m); s=none; case $m in {names}esac; \
         if test -x $d/pgfleet-$s; then \
         test \"$(readlink $d/current)\" = pgfleet-$s || {{ ln -s pgfleet-$s $d/.current.$$ && mv -Tf $d/.current.$$ $d/current; }}; \
         echo runs; exec $d/pgfleet-$s {arguments}; fi; \
         echo missing $m $(command -v gzip)"
    )
}

/// Every step that can fail has an exit code of its own; whatever happens, no half-written file stays.
fn upload_script(executable: &LocalExecutable, gzip: bool) -> String {
    let (digest, short) = (executable.digest, executable.digest.short());
    let unpack = if gzip { "gzip -dc" } else { "cat" };
    format!(
        "umask 022; d={FOLDER}; t=$d/.pgfleet-{short}.$$; mkdir -p $d || exit 41; \
         find $d -name \".pgfleet-*\" -mmin +60 -exec rm -f {{}} + 2>/dev/null; \
         trap \"rm -f $t\" EXIT; trap \"exit 129\" HUP INT TERM PIPE; \
         {unpack} >$t || exit 42; \
         set -- $(sha256sum $t); test \"$1\" = {digest} || exit 43; \
         chmod 0755 $t && sync $t || exit 44; \
         $t --version >/dev/null || exit 45; \
         mv -f $t $d/pgfleet-{short} && sync $d || exit 46; \
         ln -s pgfleet-{short} $d/.current.$$ && mv -Tf $d/.current.$$ $d/current || exit 47; \
         ls -t $d/pgfleet-* | tail -n +4 | xargs -r rm -f; exit 0"
    )
}

fn why_upload_failed(exit: &Exit, complaint: &str, path: &str) -> SessionProblem {
    let path = path.to_owned();
    let said =
        complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
    if complaint.contains("No space left on device") || complaint.contains("Disk quota exceeded") {
        return SessionProblem::DiskFull { path };
    }
    if complaint.contains("Read-only file system") {
        return SessionProblem::ReadOnly { path };
    }
    match exit {
        Exit::Status(45) if complaint.contains("Permission denied") => SessionProblem::NoExec { path },
        Exit::Status(45) => SessionProblem::DoesNotRun { path, said },
        Exit::Status(41 | 42) if complaint.contains("Permission denied") => {
            SessionProblem::NotWritable { path, said }
        }
        Exit::Status(43) => {
            SessionProblem::Upload { path, said: "what arrived is not what was sent".to_owned() }
        }
        _ => SessionProblem::Upload { path, said },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_architecture_of_this_very_program() {
        let own = LocalExecutable::read(Path::new("/proc/self/exe")).expect("the running test");
        assert_eq!(own.architecture(), &Architecture::own());
        let script = LocalExecutable::read(Path::new("/proc/self/status"));
        assert!(matches!(script, Err(SessionProblem::LocalFile { .. })));
    }

    #[test]
    fn tells_failures_of_an_upload_apart() {
        let cases = [
            (42, "gzip: stdout: No space left on device"),
            (41, "mkdir: cannot create directory '/var/lib/pgfleet': Read-only file system"),
            (41, "mkdir: cannot create directory '/var/lib/pgfleet': Permission denied"),
            (45, "sh: 1: /var/lib/pgfleet/bin/.pgfleet-0: Permission denied"),
            (45, "/x: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by /x)"),
            (43, ""),
            (42, "gzip: stdin: unexpected end of file"),
        ];
        let told = cases.map(|(code, text)| why_upload_failed(&Exit::Status(code), text, "/b/p").to_string());
        insta::assert_snapshot!(told.join("\n"), @r"
        no room on the device for /b/p
        /b/p is on a read-only file system
        /b/p may not be written: mkdir: cannot create directory '/var/lib/pgfleet': Permission denied
        /b/p may not be executed: the file system is mounted with `noexec`, or a policy forbids it
        the executable at /b/p does not run there: /x: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by /x)
        the upload to /b/p failed: what arrived is not what was sent
        the upload to /b/p failed: gzip: stdin: unexpected end of file
        ");
    }
}
