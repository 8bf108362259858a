//! Which servers are trusted.

use super::sshd::{Setup, Sshd, keygen, run};
use pgfleet::ssh::{ConnectError, ConnectProblem, Options, Session};
use std::fs;

async fn connect(sshd: &Sshd, options: &Options) -> Result<(), ConnectError> {
    Session::connect(&sshd.target(), options).await?.close().await;
    Ok(())
}

fn options(sshd: &Sshd, accept_new_host_keys: bool) -> Options {
    Options { accept_new_host_keys, ..Options::isolated(sshd.path("key"), sshd.path("known_hosts")) }
}

fn fingerprint(sshd: &Sshd, key: &str) -> String {
    let listed = run("ssh-keygen", &["-lf", &sshd.path(&format!("{key}.pub")).display().to_string()]);
    listed.split(' ').nth(1).expect("a fingerprint").to_owned()
}

#[tokio::test]
async fn an_unknown_host_is_refused_unless_new_ones_are_accepted() {
    let sshd = Sshd::start(&Setup::default());
    let error = connect(&sshd, &options(&sshd, false)).await.expect_err("unknown");
    let shown = fingerprint(&sshd, "host_ed25519");
    let name = format!("[127.0.0.1]:{}", sshd.port);
    assert_eq!(
        error.to_string(),
        format!("pg1: the key of `{name}` is not known: it offers ssh-ed25519 {shown}")
    );
    assert!(
        error.next_step().contains(&format!("`ssh-keyscan -p {} 127.0.0.1 >> ", sshd.port)),
        "{}",
        error.next_step()
    );
    assert!(!sshd.path("known_hosts").exists());

    connect(&sshd, &options(&sshd, true)).await.expect("accepted");
    let known = fs::read_to_string(sshd.path("known_hosts")).expect("recorded");
    assert!(known.starts_with(&format!("{name} ssh-ed25519 ")), "{known}");
    connect(&sshd, &options(&sshd, false)).await.expect("known from now on");
    // OpenSSH's client reads what was recorded.
    let found = run("ssh-keygen", &["-F", &name, "-f", &sshd.path("known_hosts").display().to_string()]);
    assert!(found.contains("found: line 1"), "{found}");
}

#[tokio::test]
async fn hosts_that_are_new_at_the_same_time_are_all_recorded() {
    let sshds: Vec<_> = (0..6).map(|_| Sshd::start(&Setup::default())).collect();
    let shared = sshds[0].path("known_hosts");
    let connects = sshds.iter().map(|sshd| {
        let options =
            Options { accept_new_host_keys: true, ..Options::isolated(sshd.path("key"), shared.clone()) };
        async move { connect(sshd, &options).await }
    });
    for result in futures_util::future::join_all(connects).await {
        result.expect("accepted");
    }
    assert_eq!(fs::read_to_string(&shared).expect("recorded").lines().count(), 6);
}

#[tokio::test]
async fn a_changed_key_is_refused_whatever_is_accepted() {
    let sshd = Sshd::start(&Setup::default());
    keygen(&sshd.path("old"), "ed25519", "");
    fs::write(sshd.path("known_hosts"), "# where the old one is:\n").expect("written");
    sshd.record("old", "");
    let error = connect(&sshd, &options(&sshd, true)).await.expect_err("changed");
    let (old, new) = (fingerprint(&sshd, "old"), fingerprint(&sshd, "host_ed25519"));
    let file = sshd.path("known_hosts").display().to_string();
    assert_eq!(
        error.to_string(),
        format!(
            "pg1: THE HOST KEY OF `[127.0.0.1]:{}` HAS CHANGED: known is {file}:2: ssh-ed25519 {old}, it offers ssh-ed25519 {new}",
            sshd.port
        )
    );
    assert!(
        error.next_step().contains(&format!("`ssh-keygen -f {file} -R '[127.0.0.1]:{}'`", sshd.port)),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_that_is_known_by_another_type_of_key_is_not_new() {
    let sshd = Sshd::start(&Setup::default());
    keygen(&sshd.path("old"), "ecdsa", "");
    sshd.record("old", "");
    let error = connect(&sshd, &options(&sshd, true)).await.expect_err("another type");
    assert!(matches!(*error.problem, ConnectProblem::HostKeyChanged { .. }), "{error}");
}

#[tokio::test]
async fn a_host_with_several_keys_is_asked_for_the_one_on_record() {
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let sshd = Sshd::start(&Setup { host_keys: &["ed25519", "ecdsa", "rsa"], ..Setup::default() });
        sshd.record(&format!("host_{kind}"), "");
        connect(&sshd, &options(&sshd, false)).await.expect(kind);
    }
}

#[tokio::test]
async fn hashed_names_are_read() {
    let sshd = Sshd::start(&Setup::default());
    sshd.record("host_ed25519", "");
    run("ssh-keygen", &["-q", "-H", "-f", &sshd.path("known_hosts").display().to_string()]);
    assert!(fs::read_to_string(sshd.path("known_hosts")).expect("there").starts_with("|1|"));
    connect(&sshd, &options(&sshd, false)).await.expect("known");
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    let sshd = Sshd::start(&Setup::default());
    sshd.record("host_ed25519", "");
    sshd.record("host_ed25519", "@revoked ");
    let error = connect(&sshd, &options(&sshd, true)).await.expect_err("revoked");
    assert!(matches!(*error.problem, ConnectProblem::HostKeyRevoked { .. }), "{error}");
}

#[tokio::test]
async fn an_authority_vouches_for_its_hosts_alone() {
    for (principal, trusted) in [("127.0.0.1", true), ("elsewhere", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca");
        keygen(&ca, "ed25519", "");
        let sshd = Sshd::start(&Setup { certified: Some((ca, principal)), ..Setup::default() });
        let public = fs::read_to_string(folder.path().join("ca.pub")).expect("there");
        fs::write(sshd.path("known_hosts"), format!("@cert-authority * {public}")).expect("written");
        let result = connect(&sshd, &options(&sshd, false)).await;
        if trusted {
            result.expect("vouched for");
        } else {
            let error = result.expect_err("another host's certificate");
            assert!(matches!(*error.problem, ConnectProblem::HostCertificate { .. }), "{error}");
            assert!(error.to_string().contains("it is for elsewhere"), "{error}");
        }
    }
}
