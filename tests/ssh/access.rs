//! Who is let in, by what, and what is said when nobody is.

use super::sshd::{PASSWORD, Setup, Sshd, free_port, keygen, run};
use pgfleet::{
    model::Secret,
    ssh::{ConnectError, ConnectProblem, Options, PassphrasePrompt, Session, Target},
};
use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

async fn whoami(target: &Target, options: &Options) -> Result<String, ConnectError> {
    let session = Session::connect(target, options).await?;
    let output = session.run("id -un", b"").await.expect("a command");
    session.close().await;
    Ok(String::from_utf8(output.stdout).expect("text").trim().to_owned())
}

fn authorize(sshd: &Sshd, key: &str) {
    fs::copy(sshd.path(&format!("{key}.pub")), sshd.path("authorized_keys")).expect("written");
}

/// Hides what differs from run to run.
fn steady(sshd: &Sshd, error: &ConnectError) -> String {
    let text = format!("{error}\n{}", error.next_step());
    let text = text
        .replace(&sshd.folder.path().display().to_string(), "DIR")
        .replace(&sshd.port.to_string(), "PORT");
    let mut steady = String::new();
    for (index, piece) in text.split("SHA256:").enumerate() {
        match index {
            0 => steady.push_str(piece),
            _ => steady.push_str(&format!("SHA256:…{}", &piece[43..])),
        }
    }
    steady
}

#[tokio::test]
async fn every_kind_of_key_lets_us_in() {
    let sshd = Sshd::start(&Setup::default());
    let options = sshd.options();
    for (kind, name) in [("ed25519", "e"), ("ecdsa", "c"), ("rsa", "r")] {
        keygen(&sshd.path(name), kind, "");
        authorize(&sshd, name);
        let options = Options { identity: Some(sshd.path(name)), ..options.clone() };
        assert_eq!(whoami(&sshd.target(), &options).await.expect(kind), "deploy");
    }
    // The format that `ssh-keygen` wrote by default before OpenSSH 7.8.
    run(
        "ssh-keygen",
        &["-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", &sshd.path("pem").display().to_string()],
    );
    authorize(&sshd, "pem");
    let options = Options { identity: Some(sshd.path("pem")), ..options };
    assert_eq!(whoami(&sshd.target(), &options).await.expect("PEM"), "deploy");
}

#[tokio::test]
async fn a_users_certificate_lets_us_in() {
    let sshd = Sshd::start(&Setup::default());
    keygen(&sshd.path("ca"), "ed25519", "");
    let authority = fs::read_to_string(sshd.path("ca.pub")).expect("there");
    fs::write(sshd.path("authorized_keys"), format!("cert-authority {authority}")).expect("written");
    let (ca, key) = (sshd.path("ca").display().to_string(), sshd.path("key.pub").display().to_string());
    run("ssh-keygen", &["-q", "-s", &ca, "-I", "me", "-n", "deploy", &key]);
    assert_eq!(whoami(&sshd.target(), &sshd.options()).await.expect("certified"), "deploy");
}

#[tokio::test]
async fn a_passphrase_is_asked_for_once_and_a_sealed_key_is_named() {
    let sshd = Sshd::start(&Setup::default());
    keygen(&sshd.path("sealed"), "ed25519", "open sesame");
    authorize(&sshd, "sealed");
    let options = Options { identity: Some(sshd.path("sealed")), ..sshd.options() };
    let error = whoami(&sshd.target(), &options).await.expect_err("sealed");
    insta::assert_snapshot!(steady(&sshd, &error), @r"
    pg1: user `deploy` is refused at 127.0.0.1:PORT: no key or password to offer; not usable: DIR/sealed is sealed by a passphrase, and ssh-agent does not hold it; the server accepts publickey, keyboard-interactive
    Unlock it with `ssh-add DIR/sealed`. Name a key that is in ~deploy/.ssh/authorized_keys there with `ansible_ssh_private_key_file`, or put yours there with `ssh-copy-id`; check `ansible_user`.
    ");

    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let prompt = PassphrasePrompt(Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Some(Secret::new("open sesame"))
    }));
    let options = Options { identity: Some(sshd.path("sealed")), passphrase: Some(prompt), ..sshd.options() };
    let target = sshd.target();
    let (one, two) = tokio::join!(whoami(&target, &options), whoami(&target, &options));
    assert_eq!((one.expect("open").as_str(), two.expect("open").as_str()), ("deploy", "deploy"));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

struct Agent(Child);

impl Agent {
    fn start(socket: &str) -> Self {
        let agent = Command::new("ssh-agent").args(["-D", "-a", socket]).stdout(Stdio::null()).spawn();
        let agent = Self(agent.expect("ssh-agent runs"));
        while !fs::exists(socket).expect("readable") {
            std::thread::yield_now();
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_agents_keys_let_us_in() {
    let sshd = Sshd::start(&Setup::default());
    let socket = sshd.path("agent").display().to_string();
    let _agent = Agent::start(&socket);
    keygen(&sshd.path("other"), "ecdsa", "");
    keygen(&sshd.path("held"), "rsa", "");
    authorize(&sshd, "held");
    for name in ["other", "held"] {
        let add =
            Command::new("ssh-add").env("SSH_AUTH_SOCK", &socket).arg("-q").arg(sshd.path(name)).status();
        assert!(add.expect("ssh-add runs").success());
        fs::remove_file(sshd.path(name)).expect("there");
    }
    let options = Options { identity: None, agent: Some(socket.into()), ..sshd.options() };
    assert_eq!(whoami(&sshd.target(), &options).await.expect("held by the agent"), "deploy");
}

#[tokio::test]
async fn a_password_lets_us_in_both_ways() {
    for method in
        ["PasswordAuthentication yes", "PasswordAuthentication yes\nAuthenticationMethods publickey,password"]
    {
        let sshd = Sshd::start(&Setup { config: method.to_owned(), ..Setup::default() });
        let target = Target { password: Some(Secret::new(PASSWORD)), ..sshd.target() };
        assert_eq!(whoami(&target, &sshd.options()).await.expect(method), "deploy");
    }
}

#[tokio::test]
async fn a_refused_key_is_told_with_what_the_server_accepts() {
    let sshd = Sshd::start(&Setup { config: "PasswordAuthentication yes".to_owned(), ..Setup::default() });
    keygen(&sshd.path("stranger"), "ed25519", "");
    let options = Options { identity: Some(sshd.path("stranger")), ..sshd.options() };
    let error = whoami(&sshd.target(), &options).await.expect_err("a stranger");
    insta::assert_snapshot!(steady(&sshd, &error), @r"
    pg1: user `deploy` is refused at 127.0.0.1:PORT: it tried DIR/stranger (ssh-ed25519 SHA256:…); the server accepts publickey, password, keyboard-interactive
    Name a key that is in ~deploy/.ssh/authorized_keys there with `ansible_ssh_private_key_file`, or put yours there with `ssh-copy-id`; check `ansible_user`.
    ");

    let target = Target { password: Some(Secret::new("wrong")), ..sshd.target() };
    let error = whoami(&target, &options).await.expect_err("a wrong password");
    assert!(!error.to_string().contains("wrong"), "{error}");
    insta::assert_snapshot!(steady(&sshd, &error), @r"
    pg1: user `deploy` is refused at 127.0.0.1:PORT: it tried DIR/stranger (ssh-ed25519 SHA256:…), the password; the server accepts publickey, password, keyboard-interactive
    Name a key that is in ~deploy/.ssh/authorized_keys there with `ansible_ssh_private_key_file`, or put yours there with `ssh-copy-id`; check `ansible_user`.
    ");
}

#[tokio::test]
async fn a_key_that_is_missing_or_open_to_others_is_told() {
    let sshd = Sshd::start(&Setup::default());
    let options = Options { identity: Some("/nowhere/key".into()), ..sshd.options() };
    let error = whoami(&sshd.target(), &options).await.expect_err("no key");
    insta::assert_snapshot!(steady(&sshd, &error), @r"
    pg1: the private key /nowhere/key is not usable: there is no such file
    Check it with `ssh-keygen -yf /nowhere/key`.
    ");

    run("chmod", &["644", &sshd.path("key").display().to_string()]);
    let error = whoami(&sshd.target(), &sshd.options()).await.expect_err("an open key");
    insta::assert_snapshot!(steady(&sshd, &error), @r"
    pg1: the private key DIR/key is not usable: others may read it (mode 0644); run `chmod 600` on it
    Check it with `ssh-keygen -yf DIR/key`.
    ");
}

#[tokio::test]
async fn what_does_not_answer_is_told_apart() {
    let sshd = Sshd::start(&Setup::default());
    let options = Options { connect_timeout: Duration::from_millis(400), ..sshd.options() };

    let refused = Target { port: Some(free_port()), ..sshd.target() };
    let error = Session::connect(&refused, &options).await.expect_err("nobody there");
    assert!(matches!(*error.problem, ConnectProblem::Refused { .. }), "{error}");

    let unnamed = Target { address: "no-such-host.invalid".to_owned(), ..sshd.target() };
    let error = Session::connect(&unnamed, &options).await.expect_err("no such name");
    assert!(matches!(*error.problem, ConnectProblem::UnknownName { .. }), "{error}");

    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let error =
        Session::connect(&Target { port: Some(port), ..sshd.target() }, &options).await.expect_err("silence");
    assert!(matches!(*error.problem, ConnectProblem::TimedOut { stage: "exchanging keys", .. }), "{error}");
}

#[tokio::test]
async fn a_chain_of_jump_hosts_is_shared() {
    let (outer, inner, host) =
        (Sshd::start(&Setup::default()), Sshd::start(&Setup::default()), Sshd::start(&Setup::default()));
    let mut known = String::new();
    let mut keys = String::new();
    for sshd in [&outer, &inner, &host] {
        sshd.options();
        known.push_str(&fs::read_to_string(sshd.path("known_hosts")).expect("there"));
        keys.push_str(&fs::read_to_string(sshd.path("key.pub")).expect("there"));
    }
    fs::write(host.path("known_hosts"), known).expect("written");
    for sshd in [&outer, &inner] {
        fs::write(sshd.path("authorized_keys"), &keys).expect("written");
    }
    let options = Options::isolated(host.path("key"), host.path("known_hosts"));
    let hops = format!("deploy@127.0.0.1:{},deploy@127.0.0.1:{}", outer.port, inner.port);
    let target = Target { ssh_args: vec!["-J".to_owned(), hops], ..host.target() };
    let sessions = futures_util::future::join_all((0..5).map(|_| Session::connect(&target, &options))).await;
    for session in sessions {
        let output =
            session.expect("through both").run("echo $SSH_CONNECTION", b"").await.expect("a command");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("127.0.0.1 "), "{output:?}");
    }
    for sshd in [&outer, &inner] {
        let log = fs::read_to_string(sshd.path("log")).expect("there");
        assert_eq!(log.matches("Accepted publickey").count(), 1, "{log}");
    }

    drop(outer);
    let options = Options::isolated(host.path("key"), host.path("known_hosts"));
    let error = Session::connect(&target, &options).await.expect_err("the first hop is gone");
    assert!(error.to_string().contains("leads over a jump host"), "{error}");
    assert!(error.to_string().contains("refuses connections"), "{error}");
}

#[tokio::test]
async fn a_proxy_command_carries_the_connection() {
    let sshd = Sshd::start(&Setup::default());
    let command = format!(
        "ProxyCommand=ssh -F none -i {0}/key -o UserKnownHostsFile={0}/known_hosts -p %p -l %r -W %h:%p %h",
        sshd.folder.path().display()
    );
    let target = Target { ssh_args: vec!["-o".to_owned(), command], ..sshd.target() };
    assert_eq!(whoami(&target, &sshd.options()).await.expect("through the command"), "deploy");
}
