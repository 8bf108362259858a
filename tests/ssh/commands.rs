//! What runs on a host once we are in.

use super::sshd::{PASSWORD, Setup, Sshd, free_port};
use pgfleet::{
    model::Secret,
    ssh::{Become, Exit, Options, Session, SessionProblem, Target},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn connected(sshd: &Sshd) -> Session {
    Session::connect(&sshd.target(), &sshd.options()).await.expect("let in")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn a_command_gives_its_output_and_exit_code() {
    let sshd = Sshd::start(&Setup::default());
    let session = connected(&sshd).await;
    let output = session.run("cat; echo \"it's\" >&2; exit 3", b"fed").await.expect("it runs");
    assert_eq!((output.status, text(&output.stdout), text(&output.stderr)), (3, "fed", "it's\n"));
    let output = session.run("kill -9 $$", b"").await.expect("it runs");
    assert_eq!(output.status, 128);
}

#[tokio::test]
async fn large_input_and_output_arrive_whole() {
    let sshd = Sshd::start(&Setup::default());
    let session = connected(&sshd).await;
    let sent: Vec<u8> = (0..20_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let output = session.run("cat", &sent).await.expect("it runs");
    assert!(output.stdout == sent, "{} bytes came back", output.stdout.len());
    // A command that reads nothing does not hold us up.
    let output = session.run("exit 0", &sent).await.expect("it runs");
    assert_eq!(output.status, 0);
}

#[tokio::test]
async fn channels_are_closed_so_that_a_session_lasts() {
    let sshd = Sshd::start(&Setup { config: "MaxSessions 4".to_owned(), ..Setup::default() });
    let session = connected(&sshd).await;
    for round in 0..25 {
        let process = session.open("echo started; sleep 60", false).await.expect("it runs");
        drop(process);
        let output = session.run(&format!("echo {round}"), b"").await.expect("it runs");
        assert_eq!(text(&output.stdout).trim(), round.to_string());
    }
}

#[tokio::test]
async fn a_session_that_is_full_says_what_to_raise() {
    let sshd = Sshd::start(&Setup { config: "MaxSessions 1".to_owned(), ..Setup::default() });
    let session = connected(&sshd).await;
    let _first = session.open("cat", false).await.expect("it runs");
    let error = session.open("cat", false).await.expect_err("one too many");
    assert!(matches!(*error.problem, SessionProblem::ChannelRefused { .. }), "{error}");
    assert!(error.next_step().contains("MaxSessions"));
}

#[tokio::test]
async fn many_sessions_at_once_are_patient_with_max_startups() {
    let sshd = Sshd::start(&Setup { config: "MaxStartups 10:30:100".to_owned(), ..Setup::default() });
    let options = sshd.options();
    let runs = (0..40).map(|number| {
        let (target, options) = (sshd.target(), options.clone());
        async move {
            let session = Session::connect(&target, &options).await?;
            Ok::<_, pgfleet::ssh::ConnectError>(
                session.run(&format!("echo {number}"), b"").await.expect("it runs"),
            )
        }
    });
    for (number, result) in futures_util::future::join_all(runs).await.into_iter().enumerate() {
        assert_eq!(text(&result.expect("let in").stdout).trim(), number.to_string());
    }
}

#[tokio::test]
async fn noise_of_profiles_is_told_apart() {
    let noisy = "echo 'mesg: a greeting' ; echo 'a complaint' >&2";
    let sshd = Sshd::start(&Setup {
        config: format!(
            "SetEnv ENV=/dev/null\nForceCommand sh -c \"{noisy}; exec sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"\""
        ),
        ..Setup::default()
    });
    let output = connected(&sshd).await.run("echo mine", b"").await.expect("it runs");
    assert_eq!(text(&output.stdout), "mine\n");
}

#[tokio::test]
async fn sudo_without_a_password() {
    let sshd = Sshd::start(&Setup::default());
    let session = connected(&sshd).await;
    let output = session.run_as("id -un; cat", b"fed", true).await.expect("it runs");
    assert_eq!(text(&output.stdout), "root\nfed");
    // The login user itself needs no sudo.
    let target =
        Target { r#become: Some(Become { user: "deploy".to_owned(), password: None }), ..sshd.target() };
    let session = Session::connect(&target, &sshd.options()).await.expect("let in");
    let output = session.run_as("id -un; echo $SUDO_USER", b"", true).await.expect("it runs");
    assert_eq!(text(&output.stdout), "deploy\n\n");
}

async fn with_password(sshd: &Sshd, password: Option<&str>) -> Session {
    let r#become = Become { user: "root".to_owned(), password: password.map(Secret::new) };
    let target = Target { r#become: Some(r#become), ..sshd.target() };
    Session::connect(&target, &sshd.options()).await.expect("let in")
}

#[tokio::test]
async fn sudo_with_a_password() {
    let sshd = Sshd::start(&Setup { sudoers: "deploy ALL=(ALL) ALL\n".to_owned(), ..Setup::default() });
    let session = with_password(&sshd, Some(PASSWORD)).await;
    let output = session.run_as("id -un; cat; echo done >&2", b"fed", true).await.expect("it runs");
    assert_eq!((text(&output.stdout), text(&output.stderr).trim()), ("root\nfed", "done"));

    let error = with_password(&sshd, None).await.run_as("id", b"", true).await.expect_err("no password");
    assert!(matches!(*error.problem, SessionProblem::SudoNeedsPassword), "{error}");
    let error =
        with_password(&sshd, Some("wrong")).await.run_as("id", b"", true).await.expect_err("a wrong one");
    assert!(matches!(*error.problem, SessionProblem::SudoWrongPassword { .. }), "{error}");
}

#[tokio::test]
async fn a_password_that_sudo_does_not_want_stays_here() {
    let sshd = Sshd::start(&Setup::default());
    let session = with_password(&sshd, Some(PASSWORD)).await;
    let output = session.run_as("cat", b"fed", true).await.expect("it runs");
    assert_eq!(text(&output.stdout), "fed");
}

#[tokio::test]
async fn sudos_refusals_are_told_apart() {
    let nobody = Sshd::start(&Setup { sudoers: String::new(), ..Setup::default() });
    let error =
        with_password(&nobody, Some(PASSWORD)).await.run_as("id", b"", true).await.expect_err("no rule");
    assert!(matches!(*error.problem, SessionProblem::NotInSudoers { .. }), "{error}");
    insta::assert_snapshot!(format!("{error}\n{}", error.next_step()), @r"
    pg1: user `deploy` may not use sudo
    Allow it there, for example with `deploy ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/deploy.
    ");

    let tty = "Defaults requiretty\ndeploy ALL=(ALL) NOPASSWD: ALL\n";
    let tty = Sshd::start(&Setup { sudoers: tty.to_owned(), ..Setup::default() });
    let error = connected(&tty).await.run_as("id", b"", true).await.expect_err("no terminal");
    assert!(matches!(*error.problem, SessionProblem::SudoNeedsTerminal), "{error}");

    let none = Sshd::start(&Setup {
        prepare: "mount --bind /dev/null /usr/bin/sudo".to_owned(),
        ..Setup::default()
    });
    let error = connected(&none).await.run_as("id", b"", true).await.expect_err("no sudo");
    assert!(matches!(*error.problem, SessionProblem::NoSudo { .. }), "{error}");
    // root needs none.
    let root = Target { user: Some("root".to_owned()), ..none.target() };
    let session = Session::connect(&root, &none.options()).await.expect("let in");
    assert_eq!(text(&session.run_as("id -un", b"", true).await.expect("it runs").stdout), "root\n");
}

#[tokio::test]
async fn a_login_shell_that_runs_nothing_is_told() {
    let prepare = "sed 's|deploy:x:.*|deploy:x:1999:1999::/:/usr/sbin/nologin|' passwd >new; cat new >passwd";
    let sshd = Sshd::start(&Setup { prepare: prepare.to_owned(), ..Setup::default() });
    let error = connected(&sshd).await.run("id", b"").await.expect_err("no shell");
    insta::assert_snapshot!(error, @"pg1: the command did not start: This account is currently not available.");
}

#[tokio::test]
async fn a_host_that_dies_is_noticed() {
    let sshd = Sshd::start(&Setup::default());
    let options = Options { keepalive: Duration::from_millis(100), ..sshd.options() };
    let session = Session::connect(&sshd.target(), &options).await.expect("let in");
    let mut process = session.open("echo $PPID; exec cat", false).await.expect("it runs");
    let mut line = [0; 32];
    let read = process.stdout.read(&mut line).await.expect("a line");
    let server: i32 = text(&line[..read]).trim().parse().expect("a process id");
    // Stopped, as a host is that lost its power: nothing answers, nothing is closed.
    let pid = nix::unistd::Pid::from_raw(server);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("root may");
    let exit = process.wait().await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("root may");
    assert_eq!(exit, Exit::Lost);
    let error = session.run("id", b"").await.expect_err("gone");
    assert!(error.is_unreachable(), "{error}");
    insta::assert_snapshot!(error, @"pg1: the connection was lost: the host stopped answering");
}

#[tokio::test]
async fn tunnels_reach_what_the_host_reaches() {
    let sshd = Sshd::start(&Setup::default());
    let session = connected(&sshd).await;
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = service.local_addr().expect("bound").port();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = service.accept().await.expect("a connection");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("read");
        stream.write_all(&heard).await.expect("written");
    });
    let mut tunnel = session.tunnel("127.0.0.1", port).await.expect("open");
    tunnel.write_all(b"hello").await.expect("written");
    tunnel.shutdown().await.expect("written");
    let mut heard = String::new();
    tunnel.read_to_string(&mut heard).await.expect("read");
    assert_eq!(heard, "hello");
    echo.await.expect("served");

    let closed = free_port();
    let error = session.tunnel("127.0.0.1", closed).await.expect_err("nobody there");
    assert!(matches!(*error.problem, SessionProblem::TunnelRefused { .. }), "{error}");

    let strict = Sshd::start(&Setup { config: "AllowTcpForwarding no".to_owned(), ..Setup::default() });
    let error = connected(&strict).await.tunnel("127.0.0.1", port).await.expect_err("forbidden");
    assert!(matches!(*error.problem, SessionProblem::TunnelForbidden { .. }), "{error}");
}
