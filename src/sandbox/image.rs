//! Builds the root file system that hosts boot from, once per recipe.

use super::{
    Error, Event, Image, Result,
    layout::{self, Store},
    overlay, process,
};
use crate::model::Digest;
use nix::sys::signal::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a cloud's image of a small VM has and a minimal Debian lacks. No Python: targets need none.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,\
    ca-certificates,curl,iproute2,iputils-ping,kmod,less,locales,netbase,procps,tzdata";

/// Makes the image a machine nobody has booted yet: no identity, names and time zone neutral, the network
/// and sshd on, a user with sudo. Runs on this machine; $1 is the new root.
const CUSTOMIZE: &str = r#"
set -e
cd "$1"
rm -f etc/ssh/ssh_host_* etc/hostname etc/resolv.conf
: > etc/machine-id
echo 'en_US.UTF-8 UTF-8' > etc/locale.gen
chroot . locale-gen > /dev/null
echo 'LANG=C.UTF-8' > etc/default/locale
chroot . systemctl -q enable systemd-networkd.service ssh.service
chroot . useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > etc/sudoers.d/admin
chmod 0440 etc/sudoers.d/admin
"#;

/// Used where this machine's own sources name no Debian mirror.
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// How an image is made; what changes here makes a new image.
struct Recipe {
    image: Image,
    sources: String,
}

impl Recipe {
    fn of_this_machine(image: Image) -> Recipe {
        let mirror = debian_mirror(&machine_sources()).unwrap_or_else(|| MIRROR.to_owned());
        let suite = image.suite();
        let mut sources = format!("deb {mirror} {suite} main\n");
        if image != Image::Sid {
            sources.push_str(&format!("deb {mirror} {suite}-updates main\n"));
            sources.push_str(&format!("deb {SECURITY_MIRROR} {suite}-security main\n"));
        }
        Recipe { image, sources }
    }

    /// The folder's name: the image and the start of the recipe's digest.
    fn build_name(&self) -> String {
        let text = [PACKAGES, CUSTOMIZE, &self.sources, &self.apt_options().join("\n")].join("\0");
        let digest = Digest::of(text.as_bytes()).to_string();
        format!("{}-{}", self.image, digest.get(..12).unwrap_or(&digest))
    }

    /// Settings of apt that stay in the image.
    fn apt_options(&self) -> Vec<&'static str> {
        // A mirror that is a frozen copy serves a sid whose Release file counts as expired.
        if self.image == Image::Sid { vec!["Acquire::Check-Valid-Until \"false\";"] } else { vec![] }
    }

    fn command(&self, target: &Path) -> Vec<String> {
        let mut command: Vec<String> =
            ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"].map(String::from).into();
        command.push(format!("--include={PACKAGES}"));
        command.extend(self.apt_options().iter().map(|option| format!("--aptopt={option}")));
        command.push(format!("--customize-hook={CUSTOMIZE}"));
        command.push(self.image.suite().to_owned());
        command.push(target.display().to_string());
        command.extend(self.sources.lines().map(String::from));
        command
    }
}

/// The root file system of an image; built now if no earlier run built it. Returns its folder's name.
pub(super) fn ensure(store: &Store, image: Image, tell: &dyn Fn(Event)) -> Result<String> {
    let recipe = Recipe::of_this_machine(image);
    let name = recipe.build_name();
    let built = path(store, &name);
    if built.exists() {
        return Ok(name);
    }
    let _lock = match store.try_lock_image(image)? {
        Some(lock) => lock,
        None => {
            tell(Event::WaitingForImage(image));
            store.lock_image(image)?
        }
    };
    if built.exists() {
        return Ok(name);
    }
    sweep_build(store, image)?;
    tell(Event::BuildingImage(image));
    let started = Instant::now();
    build(store, &recipe, &built)?;
    tell(Event::ImageBuilt(image, started.elapsed()));
    Ok(name)
}

pub(super) fn path(store: &Store, build_name: &str) -> PathBuf {
    store.images().join(build_name)
}

/// Removes what builds that were killed left: their processes, mounts and folders.
pub(super) fn sweep(store: &Store) -> Result<()> {
    if !store.images().exists() {
        return Ok(());
    }
    for image in Image::ALL {
        // Who holds the lock builds right now.
        if let Some(_lock) = store.try_lock_image(image)? {
            sweep_build(store, image)?;
        }
    }
    Ok(())
}

/// As [`sweep`], for one image whose lock the caller holds.
fn sweep_build(store: &Store, image: Image) -> Result<()> {
    let work = Work::of(store, image);
    process::settle(&work.note);
    if let Some(builder) = process::noted(&work.note) {
        builder.signal_group(Signal::SIGKILL)?;
        process::end(&[builder])?;
    }
    overlay::remove_below(&work.target)?;
    if work.target.exists() {
        fs::remove_dir_all(&work.target).map_err(Error::io("cannot remove", &work.target))?;
    }
    let _ = fs::remove_file(&work.note);
    Ok(())
}

/// Where an image is while it is being built.
struct Work {
    target: PathBuf,
    log: PathBuf,
    note: PathBuf,
    status: PathBuf,
}

impl Work {
    fn of(store: &Store, image: Image) -> Work {
        let file = |what: &str| store.images().join(format!(".{image}.{what}"));
        Work { target: file("new"), log: file("log"), note: file("process"), status: file("status") }
    }
}

fn build(store: &Store, recipe: &Recipe, built: &Path) -> Result<()> {
    let work = Work::of(store, recipe.image);
    let _ = fs::remove_file(&work.log);
    let _ = fs::remove_file(&work.status);
    // The builder is not this process's child in what matters: it reports its end in a file, so that
    // it is started, found and ended like everything else that may outlive its parent.
    let report = format!("\"$@\" && echo done > '{}'", work.status.display());
    let mut command: Vec<String> = ["sh", "-c", &report, "build"].map(String::from).into();
    command.extend(recipe.command(&work.target));
    process::launch(&work.note, &work.log, &[], &command)?;
    let builder = process::await_note(&work.note, Duration::from_secs(10));
    if let Some(builder) = builder {
        builder.wait(Duration::from_secs(3600));
    }
    if !work.status.exists() {
        let tail = layout::tail(&work.log, 15);
        sweep_build(store, recipe.image)?;
        return Err(Error::Image { log: work.log, tail });
    }
    fs::rename(&work.target, built).map_err(Error::io("cannot put in place", built))?;
    let _ = fs::remove_file(&work.note);
    Ok(())
}

/// The text of this machine's own package sources.
fn machine_sources() -> String {
    let folder = Path::new("/etc/apt/sources.list.d");
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>().join("\n")
}

/// The first Debian archive in package sources that can be cached (plain HTTP; what apt fetches is
/// signed). Both formats, one-line and deb822, have the address as a word of its own.
fn debian_mirror(sources: &str) -> Option<String> {
    sources
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_ascii_whitespace)
        .find(|word| word.starts_with("http://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(|word| word.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_mirror_of_this_machine_in_both_formats() {
        let line =
            "# deb http://old/debian x main\ndeb [signed-by=/k] http://mirror.example/debian/ trixie main";
        assert_eq!(debian_mirror(line).as_deref(), Some("http://mirror.example/debian"));
        let deb822 = "Types: deb\nURIs: http://a.example/debian-security\n\nURIs: http://b.example/debian\n";
        assert_eq!(debian_mirror(deb822).as_deref(), Some("http://b.example/debian"));
        assert_eq!(debian_mirror("deb http://archive.ubuntu.com/ubuntu noble main"), None);
    }

    #[test]
    fn an_image_has_a_name_of_its_recipe() {
        let recipe = |sources: &str| Recipe { image: Image::Trixie, sources: sources.into() }.build_name();
        assert!(recipe("a").starts_with("trixie-"));
        assert_eq!(recipe("a"), recipe("a"));
        assert_ne!(recipe("a"), recipe("b"));
    }
}
