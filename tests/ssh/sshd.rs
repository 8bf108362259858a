//! A real sshd on the loopback interface, in a mount namespace of its own: it has users, sudo rules and
//! an empty `/var/lib` that the machine knows nothing of.

use pgfleet::ssh::{Become, Options, Target};
use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The password of user `deploy`.
pub const PASSWORD: &str = "correct horse";

pub struct Sshd {
    pub port: u16,
    pub folder: tempfile::TempDir,
    server: Child,
}

/// How an sshd is to be.
pub struct Setup {
    /// Types of its host keys.
    pub host_keys: &'static [&'static str],
    /// Lines of sshd_config.
    pub config: String,
    /// Lines of /etc/sudoers.d.
    pub sudoers: String,
    /// An authority's private key, and the name that it certifies the ed25519 host key for.
    pub certified: Option<(PathBuf, &'static str)>,
    /// Shell commands that run in its mount namespace before it starts.
    pub prepare: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            host_keys: &["ed25519"],
            config: String::new(),
            sudoers: "deploy ALL=(ALL) NOPASSWD: ALL\n".to_owned(),
            certified: None,
            prepare: String::new(),
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

pub fn keygen(path: &Path, kind: &str, passphrase: &str) {
    let _ = fs::remove_file(path);
    run(
        "ssh-keygen",
        &["-q", "-t", kind, "-N", passphrase, "-C", "a test's", "-f", &path.display().to_string()],
    );
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Sshd {
    pub fn start(setup: &Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let at = |name: &str| folder.path().join(name);
        for kind in setup.host_keys {
            keygen(&at(&format!("host_{kind}")), kind, "");
        }
        keygen(&at("key"), "ed25519", "");
        fs::copy(at("key.pub"), at("authorized_keys")).expect("written");
        fs::create_dir(at("home")).expect("made");

        let hash = run("openssl", &["passwd", "-6", PASSWORD]);
        let root = format!("root:x:0:0:root:{0}:/bin/sh\n", at("home").display());
        let deploy = format!("deploy:x:1999:1999::{}:/bin/sh\n", at("home").display());
        let sshd = "sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n";
        fs::write(at("passwd"), format!("{root}{deploy}{sshd}")).expect("written");
        fs::write(
            at("shadow"),
            format!("root:*:19000:0:99999:7:::\ndeploy:{}:19000:0:99999:7:::\n", hash.trim()),
        )
        .expect("written");
        fs::write(at("sudoers"), format!("root ALL=(ALL:ALL) ALL\n{}", setup.sudoers)).expect("written");
        fs::set_permissions(at("sudoers"), fs::Permissions::from_mode(0o440)).expect("ours");
        run("chown", &["-R", "1999:1999", &at("home").display().to_string()]);

        let port = free_port();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nLogLevel VERBOSE\n\
             AuthorizedKeysFile {}\n",
            at("authorized_keys").display()
        );
        for kind in setup.host_keys {
            config.push_str(&format!("HostKey {}\n", at(&format!("host_{kind}")).display()));
        }
        if let Some((authority, principal)) = &setup.certified {
            let (authority, key) =
                (authority.display().to_string(), at("host_ed25519.pub").display().to_string());
            run("ssh-keygen", &["-q", "-s", &authority, "-I", "a host", "-h", "-n", principal, &key]);
            config.push_str(&format!("HostCertificate {}\n", at("host_ed25519-cert.pub").display()));
        }
        // The first word wins in sshd_config.
        fs::write(at("sshd_config"), format!("{}\n{config}", setup.config)).expect("written");

        fs::create_dir_all("/run/sshd").expect("root may");
        let script = format!(
            "set -e; cd {folder}; for f in passwd shadow sudoers; do mount --bind $f /etc/$f; done; \
             mount -t tmpfs -o size=400m,mode=755 none /var/lib; {prepare}\n\
             exec /usr/sbin/sshd -D -e -f {folder}/sshd_config",
            folder = folder.path().display(),
            prepare = setup.prepare,
        );
        let log = fs::File::create(at("log")).expect("written");
        let server = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("unshare runs");
        let mut sshd = Self { port, folder, server };
        sshd.await_banner();
        sshd
    }

    fn await_banner(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut banner = [0; 4];
            let greeted = TcpStream::connect(("127.0.0.1", self.port))
                .and_then(|mut stream| stream.read_exact(&mut banner))
                .is_ok();
            if greeted && &banner == b"SSH-" {
                return;
            }
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(self.server.try_wait().is_ok_and(|exit| exit.is_none()), "sshd ended: {log}");
            assert!(Instant::now() < deadline, "sshd does not greet: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reaches this sshd as `deploy`, with sudo to root.
    pub fn target(&self) -> Target {
        Target {
            port: Some(self.port),
            user: Some("deploy".to_owned()),
            r#become: Some(Become::root()),
            ..Target::new("pg1".parse().expect("a name"), "127.0.0.1")
        }
    }

    /// The key that is authorized, and a known_hosts file that knows this server.
    pub fn options(&self) -> Options {
        self.record("host_ed25519", "");
        Options::isolated(self.path("key"), self.path("known_hosts"))
    }

    /// Adds a public key of the server's folder to known_hosts, behind `marker`.
    pub fn record(&self, key: &str, marker: &str) {
        let Ok(public) = fs::read_to_string(self.path(&format!("{key}.pub"))) else { return };
        let mut known = fs::read_to_string(self.path("known_hosts")).unwrap_or_default();
        let words: Vec<_> = public.split_whitespace().take(2).collect();
        known.push_str(&format!("{marker}[127.0.0.1]:{} {}\n", self.port, words.join(" ")));
        fs::write(self.path("known_hosts"), known).expect("written");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // The group that it leads: its sessions and what they run end with it.
        let group = nix::unistd::Pid::from_raw(self.server.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.server.wait();
    }
}
