//! Bringing our executable to a host.

use super::sshd::{Setup, Sshd};
use pgfleet::ssh::{Executables, LocalExecutable, Session, SessionError, SessionProblem};
use std::path::Path;
use tokio::io::AsyncReadExt as _;

fn executables() -> Executables {
    let mut executables = Executables::default();
    executables.add(LocalExecutable::read(Path::new(env!("CARGO_BIN_EXE_pgfleet"))).expect("built"));
    executables
}

async fn connected(sshd: &Sshd) -> Session {
    Session::connect(&sshd.target(), &sshd.options()).await.expect("let in")
}

async fn version(session: &Session, executables: &Executables) -> Result<String, SessionError> {
    let mut process = session.start(executables, "--version", true).await?;
    let mut said = String::new();
    process.stdout.read_to_string(&mut said).await.expect("read");
    Ok(said)
}

async fn files(session: &Session) -> String {
    let listing =
        session.run_as("cd /var/lib/pgfleet/bin 2>/dev/null && ls -A", b"", true).await.expect("it runs");
    String::from_utf8(listing.stdout).expect("text")
}

#[tokio::test]
async fn the_executable_goes_up_once() {
    let sshd = Sshd::start(&Setup::default());
    let (session, executables) = (connected(&sshd).await, executables());
    let expected = format!("pgfleet {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version(&session, &executables).await.expect("it runs"), expected);
    let listed =
        "stat -c '%i %Y %a %U %n' /var/lib/pgfleet/bin/pgfleet-*; readlink /var/lib/pgfleet/bin/current";
    let before = session.run_as(listed, b"", true).await.expect("it runs").stdout;
    assert_eq!(version(&session, &executables).await.expect("it runs"), expected);
    let after = session.run_as(listed, b"", true).await.expect("it runs").stdout;
    assert_eq!(String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
    assert!(String::from_utf8_lossy(&before).contains(" 755 root /var/lib/pgfleet/bin/pgfleet-"));
    assert_eq!(files(&session).await.lines().count(), 2);

    let path = session.deploy_executable(&executables, true).await.expect("there");
    assert!(String::from_utf8_lossy(&before).contains(&path));
}

#[tokio::test]
async fn a_host_without_gzip_is_served_too() {
    let sshd = Sshd::start(&Setup {
        prepare: "mount --bind /dev/null /usr/bin/gzip".to_owned(),
        ..Setup::default()
    });
    let said = version(&connected(&sshd).await, &executables()).await.expect("it runs");
    assert!(said.starts_with("pgfleet "), "{said}");
}

/// Uploads to a host where it cannot work, and looks that nothing half-written stays.
async fn refused(prepare: &str, executables: &Executables) -> SessionError {
    let sshd = Sshd::start(&Setup { prepare: prepare.to_owned(), ..Setup::default() });
    let session = connected(&sshd).await;
    let error = version(&session, executables).await.expect_err("it cannot work");
    assert_eq!(files(&session).await, "");
    error
}

#[tokio::test]
async fn what_keeps_it_from_going_up_is_told_apart() {
    let executables = executables();
    let full = refused("mount -t tmpfs -o size=1m none /var/lib", &executables).await;
    assert!(matches!(*full.problem, SessionProblem::DiskFull { .. }), "{full}");
    assert!(full.next_step().contains("df -h /var/lib/pgfleet/bin"), "{}", full.next_step());

    let read_only = refused("mount -t tmpfs -o ro none /var/lib", &executables).await;
    assert!(matches!(*read_only.problem, SessionProblem::ReadOnly { .. }), "{read_only}");

    let no_exec = refused("mount -t tmpfs -o noexec none /var/lib", &executables).await;
    assert!(matches!(*no_exec.problem, SessionProblem::NoExec { .. }), "{no_exec}");

    let unfit = refused("", &Executables::default()).await;
    assert!(matches!(*unfit.problem, SessionProblem::NoExecutableFor { .. }), "{unfit}");
}

#[tokio::test]
async fn a_user_who_may_not_write_is_told_to_become_root() {
    let sshd = Sshd::start(&Setup::default());
    let error = connected(&sshd).await.start(&executables(), "--version", false).await.expect_err("not root");
    assert!(matches!(*error.problem, SessionProblem::NotWritable { .. }), "{error}");
}

#[tokio::test]
async fn an_executable_of_another_architecture_is_refused_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pgfleet");
    let mut content = std::fs::read(env!("CARGO_BIN_EXE_pgfleet")).expect("built");
    content[18] = if content[18] == 183 { 62 } else { 183 };
    std::fs::write(&path, content).expect("written");
    let mut executables = Executables::default();
    executables.add(LocalExecutable::read(&path).expect("an executable"));
    let error = refused("", &executables).await;
    assert!(matches!(*error.problem, SessionProblem::NoExecutableFor { .. }), "{error}");
}
