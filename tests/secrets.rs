//! `pgfleet secrets` as a person meets it, and Ansible's own `ansible-vault` on the same files.

use expectrl::{Expect, process::Termios, session::Session};
use pgfleet::{inventory::Inventory, secret::Keyring};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/vault");

/// A folder with an inventory, and two passphrases beside it.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        let single = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/single.yml");
        let inventory = fs::read_to_string(single).expect("an inventory");
        // Passwords alone, without the keys of certificates.
        let inventory = inventory.replace("cluster_name: single", "cluster_name: single\n    tls: false");
        fs::write(folder.path().join("inventory.yml"), inventory).expect("an inventory");
        for passphrase in ["one", "two"] {
            fs::write(folder.path().join(passphrase), format!("passphrase {passphrase}\n")).expect("a file");
        }
        Desk { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn secrets(&self) -> PathBuf {
        self.path("inventory.secrets.yml")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, words: &str) -> Command {
        let mut command = Command::new(program);
        command.args(shlex::split(words).expect("words")).current_dir(self.folder.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path());
        command.env("NO_COLOR", "1").env("TERM", "dumb").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    fn pgfleet(&self, words: &str) -> Output {
        output(&mut self.command(env!("CARGO_BIN_EXE_pgfleet"), words))
    }

    fn ansible_vault(&self, words: &str) -> String {
        success(output(&mut self.command(ansible_vault(), words)))
    }
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Ansible's own program, which `make setup-test` installs.
fn ansible_vault() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ansible/bin/ansible-vault");
    assert!(path.exists(), "{} is missing: run `make setup-test`", path.display());
    path
}

#[track_caller]
fn success(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn failure(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_file_is_sealed_viewed_and_sealed_anew() {
    let desk = Desk::new();
    let nothing = failure(desk.pgfleet("secrets init"), 2);
    for way in ["--vault-password-file", "PGFLEET_VAULT_PASSWORD_FILE", "PGFLEET_VAULT_PASSWORD", "terminal"]
    {
        assert!(nothing.contains(way), "{nothing}");
    }
    assert!(!desk.secrets().exists());

    let made = success(desk.pgfleet("secrets init --vault-password-file one --format json"));
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["sealed"], true);
    let names = ["superuser_password", "replication_password", "rewind_password"];
    assert_eq!(made["generated"], serde_json::json!(names));
    let sealed = fs::read_to_string(desk.secrets()).expect("a file");
    assert!(sealed.starts_with("$ANSIBLE_VAULT;1.1;AES256\n"), "{sealed}");

    let all = success(desk.pgfleet("secrets view --vault-password-file one --format json"));
    let all: Value = serde_json::from_str(&all).expect("JSON");
    let one = success(desk.pgfleet("secrets view rewind_password --vault-password-file one"));
    assert_eq!(Some(one.trim()), all["rewind_password"].as_str());
    let unknown = failure(desk.pgfleet("secrets view rewind_pasword --vault-password-file one"), 2);
    assert!(unknown.contains("did you mean `rewind_password`?"), "{unknown}");

    // Every command needs the passphrase now, and says so; nothing of what is sealed is told.
    for words in ["secrets view", "check", "secrets rotate -y", "secrets rekey -y", "status"] {
        let closed = failure(desk.pgfleet(words), 2);
        assert!(closed.contains("there is no passphrase"), "{words}: {closed}");
        let wrong = failure(desk.pgfleet(&format!("{words} --vault-password-file two")), 2);
        assert!(wrong.contains("--vault-password-file `two` does not open"), "{words}: {wrong}");
    }

    let rekeyed = "secrets rekey --vault-password-file one --new-vault-password-file two";
    success(desk.pgfleet(rekeyed));
    failure(desk.pgfleet("secrets view --vault-password-file one"), 2);
    let same = success(desk.pgfleet("secrets view --vault-password-file two --format json"));
    assert_eq!(all, serde_json::from_str::<Value>(&same).expect("JSON"));
}

#[test]
fn a_plain_file_becomes_sealed_with_what_is_in_it() {
    let desk = Desk::new();
    fs::write(desk.secrets(), "superuser_password: kept-as-it-was\n").expect("a file");
    fs::set_permissions(desk.secrets(), fs::Permissions::from_mode(0o600)).expect("a mode");
    let made = desk
        .command(env!("CARGO_BIN_EXE_pgfleet"), "secrets init")
        .env("ANSIBLE_VAULT_PASSWORD_FILE", desk.path("one"))
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && told.contains("3 secrets, 2 of them new"), "{told}");
    assert!(fs::read_to_string(desk.secrets()).expect("a file").starts_with("$ANSIBLE_VAULT"));
    let kept = success(desk.pgfleet("secrets view superuser_password --vault-password-file one"));
    assert_eq!(kept.trim(), "kept-as-it-was");
}

#[test]
fn what_an_editor_leaves_is_checked_and_nothing_of_it_stays() {
    let desk = Desk::new();
    success(desk.pgfleet("secrets init --vault-password-file one"));
    let edit = |script: &str| {
        let editor = desk.path("editor");
        let told = desk.path("told");
        let text = format!(
            "#!/bin/sh\n{{ echo $1; stat -c %a $1; stat -c %a ${{1%/*}}; }} > {}\n{script}\n",
            told.display()
        );
        fs::write(&editor, text).expect("a script");
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o700)).expect("a mode");
        let mut command =
            desk.command(env!("CARGO_BIN_EXE_pgfleet"), "secrets edit --vault-password-file one");
        let output = output(command.env("EDITOR", &editor));
        let told = fs::read_to_string(&told).expect("the editor ran");
        let [file, mode, folder_mode] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
        assert_eq!((mode, folder_mode), ("600", "700"));
        assert!(!Path::new(file).parent().expect("a folder").exists(), "{file} is still there");
        output
    };
    let view = || success(desk.pgfleet("secrets view superuser_password --vault-password-file one"));
    let before = view();

    success(edit("true"));
    assert_eq!(view(), before);
    assert!(failure(edit("exit 1"), 2).contains("nothing was changed"));
    let typing_error = failure(edit("sed -i s/superuser_/superusr_/ $1"), 2);
    assert!(typing_error.contains("did you mean `superuser_password`?"), "{typing_error}");
    let no_yaml = failure(edit("echo 'superuser_password: [hunter2' > $1"), 2);
    assert!(no_yaml.contains("inventory.secrets.yml:") && !no_yaml.contains("hunter2"), "{no_yaml}");
    assert_eq!(view(), before);
    success(edit("sed -i 's/^superuser_password: .*/superuser_password: typed by hand/' $1"));
    assert_eq!(view(), "typed by hand\n");
}

#[test]
fn a_person_is_asked_at_a_terminal() {
    let desk = Desk::new();
    let terminal = |words: &str, answers: &[(&str, &str)]| {
        // Before the program starts: its own prompts turn the echo off, and nobody may turn it on again.
        let line = format!("stty echo && exec {} {words}", env!("CARGO_BIN_EXE_pgfleet"));
        let mut command = desk.command("sh", "-c");
        command.arg(line).stdin(Stdio::inherit());
        let mut terminal = Session::spawn(command).expect("a terminal");
        terminal.set_expect_timeout(Some(LIMIT));
        for (question, answer) in answers {
            terminal.expect(*question).unwrap_or_else(|error| panic!("{question}: {error}"));
            if !answer.is_empty() {
                // What is typed before the terminal stops to show it is thrown away.
                let deadline = Instant::now() + LIMIT;
                while terminal.is_echo().expect("a terminal") {
                    assert!(Instant::now() < deadline, "{question}: it goes on to show what is typed");
                    std::thread::sleep(Duration::from_millis(5));
                }
                terminal.send(format!("{answer}\r").as_bytes()).expect("somebody reads");
            }
        }
    };
    terminal(
        "secrets init",
        &[("Passphrase to seal", "typed"), ("Once more", "typed"), ("is sealed: 3 secrets", "")],
    );
    terminal(
        "secrets view",
        &[("Passphrase of", "mistyped"), ("does not open it", "typed"), ("rewind_password: ", "")],
    );
    terminal("secrets view -y", &[("there is no passphrase", "")]);
    fs::write(desk.path("typed"), "typed").expect("a file");
    success(desk.pgfleet("secrets view --vault-password-file typed"));
}

#[test]
fn an_inventory_that_ansible_vault_sealed_is_read() {
    let inventory = Path::new(CASES).join("sealed-inventory/inventory.yml");
    let keys = Keyring::new(&[Path::new(CASES).join("passphrase")], |_| None);
    let inventory = Inventory::inspect_with(&inventory, &[], &keys).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(inventory.superuser().expect("a role").password.expose(), "Sup3rInline");
    assert_eq!(inventory.replication().expect("a role").password.expose(), "R3plSealed");
    let host = inventory.hosts.values().next().expect("a host");
    assert_eq!(host.vars["ttl"], 7, "what is sealed has the types of what is not");
    let secrets = inventory.secrets();
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.expose()).collect();
    for secret in ["Sup3rInline", "R3plSealed", "V1pInlin"] {
        assert!(secrets.contains(&secret), "{secret} would be told");
    }
}

#[test]
fn ansible_vault_opens_ours_and_we_open_its() {
    let desk = Desk::new();
    success(desk.pgfleet("secrets init --vault-password-file one"));
    let ours = success(desk.pgfleet("secrets view --vault-password-file one"));
    let file = "inventory.secrets.yml";
    let opened = desk.ansible_vault(&format!("view --vault-password-file one {file}"));
    assert!(opened.contains(ours.trim()), "{opened}");

    // Its rekey, to a vault id; ours keeps the id.
    desk.ansible_vault(&format!("rekey --vault-password-file one --new-vault-id prod@two {file}"));
    assert!(
        fs::read_to_string(desk.secrets()).expect("a file").starts_with("$ANSIBLE_VAULT;1.2;AES256;prod\n")
    );
    assert_eq!(success(desk.pgfleet("secrets view --vault-password-file two")), ours);
    success(desk.pgfleet("secrets rekey --vault-password-file two --new-vault-password-file one"));
    let opened = desk.ansible_vault(&format!("view --vault-id prod@one {file}"));
    assert!(opened.contains(ours.trim()), "{opened}");

    // A value in the inventory, and a file beside it.
    let value =
        desk.ansible_vault("encrypt_string --vault-password-file one --name superuser_password Inl1ne");
    let mut text = fs::read_to_string(desk.path("inventory.yml")).expect("an inventory");
    let indented: String = value.lines().map(|line| format!("    {line}\n")).collect();
    text = text.replace("    ansible_user: root\n", &format!("    ansible_user: root\n{indented}"));
    fs::write(desk.path("inventory.yml"), text).expect("an inventory");
    fs::create_dir(desk.path("group_vars")).expect("a folder");
    fs::write(desk.path("group_vars/all.yml"), "rewind_password: Wh0le\n").expect("a file");
    desk.ansible_vault("encrypt --vault-password-file one group_vars/all.yml");
    let keys = Keyring::new(&[desk.path("one")], |_| None);
    let inventory = Inventory::inspect_with(&desk.path("inventory.yml"), &[], &keys)
        .unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(inventory.superuser().expect("a role").password.expose(), "Inl1ne");
    assert_eq!(inventory.rewind().expect("a role").password.expose(), "Wh0le");
    let refused = failure(desk.pgfleet("secrets rotate superuser_password -y --vault-password-file one"), 2);
    assert!(refused.contains("is set in the inventory") && refused.contains("inventory.yml:"), "{refused}");
}
