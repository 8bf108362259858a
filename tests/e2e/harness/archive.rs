//! A release archive of etcd as its project lays it out, made of this machine's own etcd: the real one
//! cannot be fetched where the tests run.

use pgfleet::model::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The archive and its SHA-256; the same bytes each time.
#[track_caller]
pub fn etcd_archive() -> (PathBuf, Digest) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("etcd-archive-{}", std::process::id()));
    let release = folder.join("etcd-v3.4.23-linux-amd64");
    fs::create_dir_all(&release).unwrap();
    for program in ["etcd", "etcdctl"] {
        fs::copy(Path::new("/usr/bin").join(program), release.join(program))
            .unwrap_or_else(|error| panic!("/usr/bin/{program}: {error}; `make setup-test` installs it"));
    }
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd-v3.4.23-linux-amd64.tar.gz");
    let beside = folder.join("beside.tar.gz");
    let tar = Command::new("tar")
        .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-I", "gzip -n", "-cf"])
        .arg(&beside)
        .arg("-C")
        .arg(&folder)
        .arg("etcd-v3.4.23-linux-amd64")
        .status()
        .unwrap();
    assert!(tar.success());
    fs::rename(&beside, &archive).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let digest = Digest::of(&fs::read(&archive).unwrap());
    (archive, digest)
}
