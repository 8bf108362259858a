//! Commands and files on several hosts, over a real sshd.

use crate::ssh::sshd::{Setup, Sshd, free_port};
use pgfleet::{
    cluster::Access,
    engine::Event,
    fleet::{self, Command, Ended, Piece, Place, Said, Trouble},
    model::HostName,
    ssh::Target,
};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

fn names(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

/// The one server under several names; `gone` is nowhere.
async fn access(sshd: &Sshd, hosts: &[HostName], r#become: bool) -> Access {
    let target = |host: &HostName| {
        let port = if host.as_str() == "gone" { free_port() } else { sshd.port };
        let r#become = sshd.target().r#become.filter(|_| r#become);
        Target { name: host.clone(), port: Some(port), r#become, ..sshd.target() }
    };
    Access::open(hosts.iter().map(target).collect(), &sshd.options(), 10).await
}

type Texts = HashMap<(String, Said), String>;

async fn exec(
    access: &Access,
    hosts: &[HostName],
    forks: usize,
    words: &[&str],
) -> (Vec<Result<Ended, Trouble>>, Texts) {
    let (sender, mut pieces) = tokio::sync::mpsc::channel(4);
    let command = Command::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let mut texts = Texts::new();
    let hear = async {
        while let Some(Piece { host, said, bytes }) = pieces.recv().await {
            let text = texts.entry((host.to_string(), said)).or_default();
            text.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    };
    let (results, ()) = tokio::join!(fleet::exec(access, hosts, forks, &command, sender), hear);
    (results.into_iter().map(|(_, done)| done).collect(), texts)
}

#[tokio::test]
async fn a_command_on_every_host_and_what_each_says() {
    let sshd = Sshd::start(&Setup::default());
    let hosts = names(&["a", "gone", "b"]);
    let access = access(&sshd, &hosts, false).await;
    let (results, texts) = exec(&access, &hosts, 10, &["id -un; echo no >&2; cat; exit 3"]).await;
    assert_eq!((&results[0], &results[2]), (&Ok(Ended::Code(3)), &Ok(Ended::Code(3))));
    assert!(results[1].as_ref().is_err_and(|trouble| trouble.unreachable), "{:?}", results[1]);
    for host in ["a", "b"] {
        assert_eq!(texts[&(host.to_owned(), Said::Output)], "deploy\n", "as the login user");
        assert_eq!(texts[&(host.to_owned(), Said::Error)], "no\n");
    }
    // Several words stay words, and both outputs arrive whole, one host after the other.
    let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; printf '%s|' \"$@\"";
    let (results, texts) = exec(&access, &hosts[2..], 1, &["sh", "-c", script, "sh", "a b", "$HOME"]).await;
    assert_eq!(results, [Ok(Ended::Code(0))]);
    assert_eq!(texts[&("b".to_owned(), Said::Output)], "a b|$HOME|");
    assert_eq!(texts[&("b".to_owned(), Said::Error)].len(), 300_000);
    let (results, _) = exec(&access, &hosts[..1], 1, &["kill -9 $$"]).await;
    assert_eq!(results, [Ok(Ended::Signal("KILL".to_owned()))]);
}

#[tokio::test]
async fn commands_run_as_the_user_that_the_connection_says() {
    let sshd = Sshd::start(&Setup::default());
    let hosts = names(&["a"]);
    let access = access(&sshd, &hosts, true).await;
    let (_, texts) = exec(&access, &hosts, 1, &["id", "-un"]).await;
    assert_eq!(texts[&("a".to_owned(), Said::Output)], "root\n");
}

async fn push(access: &Access, hosts: &[HostName], local: &Path, to: &str) -> Vec<Result<String, Trouble>> {
    let (sink, _events) = tokio::sync::mpsc::unbounded_channel::<Event>();
    let to: Place = format!("all:{to}").parse().expect("a place");
    let results = fleet::push(access, hosts, 10, (local, &to), &sink).await;
    results.into_iter().map(|(_, done)| done).collect()
}

#[tokio::test]
async fn a_pushed_file_is_whole_or_not_there() {
    let sshd = Sshd::start(&Setup::default());
    let hosts = names(&["a"]);
    let (root, deploy) = (access(&sshd, &hosts, true).await, access(&sshd, &hosts, false).await);
    let folder = tempfile::tempdir().expect("a folder");
    let (local, there) = (folder.path().join("it's"), folder.path().join("there"));
    fs::create_dir(&there).expect("made");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    fs::write(&local, &content).expect("written");
    fs::set_permissions(&local, fs::Permissions::from_mode(0o750)).expect("ours");

    // Into a folder, under its own name.
    let path = there.join("it's");
    let done = push(&root, &hosts, &local, &format!("{}/", there.display())).await;
    assert_eq!(done, [Ok(path.display().to_string())]);
    assert!(fs::read(&path).expect("readable") == content);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o750);
    // A link stays one, and what it leads to is replaced.
    let link = there.join("link");
    symlink("it's", &link).expect("made");
    fs::write(&local, "new").expect("written");
    push(&root, &hosts, &local, &link.display().to_string()).await[0].as_ref().expect("done");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(fs::read_to_string(&path).expect("readable"), "new");

    // What fails leaves nothing behind.
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).expect("ours");
    let refused =
        push(&deploy, &hosts, &local, &path.display().to_string()).await.remove(0).expect_err("not root");
    assert!(
        refused.message.contains("Permission denied") && refused.next_step.contains("--become"),
        "{refused:?}"
    );
    let missing = push(&root, &hosts, &local, "/nowhere/at/all").await.remove(0).expect_err("no folder");
    assert!(missing.message.contains("/nowhere/at"), "{missing:?}");
    let mut left: Vec<_> =
        fs::read_dir(&there).expect("there").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["it's", "link"]);
}

#[tokio::test]
async fn files_are_pulled_with_their_modes() {
    let sshd = Sshd::start(&Setup::default());
    let hosts = names(&["a", "b"]);
    let access = access(&sshd, &hosts, true).await;
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    let content: Vec<u8> = (0..2_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    fs::write(&source, &content).expect("written");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).expect("ours");
    let (sink, _events) = tokio::sync::mpsc::unbounded_channel::<Event>();
    let pull = async |hosts: &[HostName], from: &str, to: &Path| {
        let from: Place = format!("all:{from}").parse().expect("a place");
        let results = fleet::pull(&access, hosts, 10, (&from, to), &sink).await;
        results.into_iter().map(|(_, done)| done).collect::<Vec<_>>()
    };
    let from = source.display().to_string();

    let one = folder.path().join("one");
    assert_eq!(pull(&hosts[..1], &from, &one).await, [Ok(one.clone())]);
    assert!(fs::read(&one).expect("readable") == content);
    assert_eq!(fs::metadata(&one).expect("there").permissions().mode() & 0o7777, 0o640);
    let into = folder.path().join("into");
    let done = pull(&hosts, &from, &into).await;
    assert_eq!(done, [Ok(into.join("a/source")), Ok(into.join("b/source"))]);
    assert!(fs::read(into.join("b/source")).expect("readable") == content);

    for (from, said) in [("/nowhere", "/nowhere"), ("/etc", "is a folder")] {
        let trouble = pull(&hosts[..1], from, &one).await.remove(0).expect_err("no file");
        assert!(trouble.message.contains(said), "{trouble:?}");
    }
    assert!(fs::read(&one).expect("readable") == content, "what was there stays");
    let left = fs::read_dir(folder.path()).expect("there").count();
    assert_eq!(left, 3, "nothing is left beside");
}
