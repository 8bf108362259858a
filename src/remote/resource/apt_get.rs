//! Runs apt: its lists, its locks, the policy that keeps services down, and what its errors mean.

use crate::remote::{
    command::{Invocation, Output},
    files::{self, Attributes},
    host::{Context, Host},
    protocol::Failure,
    wait::{Look, until},
};
use std::{
    fs::File,
    path::Path,
    time::{Duration, SystemTime},
};

/// Written before an archive is added and removed once the lists have been refreshed, so that a run that
/// dies in between is completed by the next one.
const UPDATE_OWED: &str = "/var/lib/pgfleet/apt-update-owed";
/// Touched whenever the lists were refreshed.
const UPDATED: &str = "/var/lib/pgfleet/apt-updated";
/// Held by every front end of dpkg for as long as it is at work.
pub(super) const DPKG_LOCK: &str = "/var/lib/dpkg/lock-frontend";
const LISTS: &str = "/var/lib/apt/lists";
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_SAVED: &str = "/usr/sbin/policy-rc.d.pgfleet-saved";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Of pgfleet, while it installs packages: their services stay down.\nexit 101\n";
const LIMIT: Duration = Duration::from_secs(3600);

/// `apt-get` that asks nothing and keeps configuration files.
pub(super) fn apt_get() -> Invocation {
    Invocation::new("apt-get")
        .args(["-y", "-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=60"])
        .args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"])
        .environment("DEBIAN_FRONTEND", "noninteractive")
        .environment("APT_LISTCHANGES_FRONTEND", "none")
        .environment("NEEDRESTART_SUSPEND", "1")
        .limit(LIMIT)
}

/// Runs it; a failure says what to do next.
pub(super) async fn run(host: &Host, command: &Invocation, purpose: &str) -> Result<Output, Failure> {
    let output = command.output(host).await?;
    if output.is_success() {
        return Ok(output);
    }
    let mut failure = command.failed(&output, purpose);
    failure.next_step = Some(advice(host, &output).await);
    Err(failure)
}

/// How old the package lists are; none when there are none.
pub(super) fn lists_age(host: &Host) -> Option<Duration> {
    let lists = host.path(LISTS);
    let mut entries = std::fs::read_dir(&lists).ok()?.flatten();
    if !entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages")) {
        return None;
    }
    let age = |path: &Path| SystemTime::now().duration_since(path.metadata().ok()?.modified().ok()?).ok();
    age(&host.path(UPDATED)).into_iter().chain(age(&lists)).min().or(Some(Duration::ZERO))
}

pub(super) fn owe_update(host: &Host) -> Result<(), Failure> {
    let path = host.path(UPDATE_OWED);
    make_parent(&path)?;
    files::replace(&path, b"", Attributes::default())
}

pub(super) fn is_update_owed(host: &Host) -> bool {
    host.path(UPDATE_OWED).exists()
}

/// Refreshes the package lists.
pub(super) async fn update(context: &Context<'_>) -> Result<(), Failure> {
    let host = context.host;
    wait_for_lock(context, "/var/lib/apt/lists/lock", Duration::from_secs(300)).await?;
    context.waiting("apt-get update");
    // Without this an archive that can't be reached is a warning, and old lists are used silently.
    let command = apt_get().args(["-o", "APT::Update::Error-Mode=any", "update"]);
    run(host, &command, "the package lists could not be refreshed").await?;
    let updated = host.path(UPDATED);
    make_parent(&updated)?;
    files::replace(&updated, b"", Attributes::default())?;
    files::remove_file(&host.path(UPDATE_OWED))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    match path.parent().filter(|parent| !parent.exists()) {
        Some(parent) => {
            files::make_directory(parent, Attributes { mode: Some(0o755), ..Attributes::default() })
        }
        None => Ok(()),
    }
}

/// Waits until no other package manager holds `lock`, telling who does.
pub(super) async fn wait_for_lock(context: &Context<'_>, lock: &str, limit: Duration) -> Result<(), Failure> {
    let path = context.host.path(lock);
    until(context, limit, async || match holder(&path) {
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Look::Missing(format!("another package manager is at work ({}, process {pid})", name.trim()))
        }
        None => Look::Satisfied,
    })
    .await
    .map_err(|failure| Failure {
        next_step: Some(
            "wait for it, or see why it hangs; raise `lock_timeout` if it just takes long".to_owned(),
        ),
        ..failure
    })
}

/// The process that holds a lock file by fcntl, as dpkg and apt do.
fn holder(path: &Path) -> Option<i32> {
    let file = File::options().read(true).write(true).open(path).ok()?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_pid)
}

/// Keeps services that packages would start down, until [`release_services`].
pub(super) fn hold_services(host: &Host) -> Result<(), Failure> {
    let policy = host.path(POLICY);
    if files::look(&policy)?.is_some() && !are_services_held(host)? {
        files::rename(&policy, &host.path(POLICY_SAVED))?;
    }
    files::replace(&policy, POLICY_TEXT.as_bytes(), Attributes { mode: Some(0o755), ..Attributes::default() })
}

/// Takes the policy away, and puts one that was there before back. Nothing to do when there is none.
pub(super) fn release_services(host: &Host) -> Result<(), Failure> {
    if are_services_held(host)? {
        files::remove_file(&host.path(POLICY))?;
    }
    let saved = host.path(POLICY_SAVED);
    match files::look(&saved)? {
        Some(_) => files::rename(&saved, &host.path(POLICY)),
        None => Ok(()),
    }
}

/// Whether the policy that is in force is ours.
pub(super) fn are_services_held(host: &Host) -> Result<bool, Failure> {
    Ok(files::read(&host.path(POLICY))?.as_deref() == Some(POLICY_TEXT.as_bytes()))
}

/// What to do about an error of apt.
async fn advice(host: &Host, output: &Output) -> String {
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let has = |what: &str| said.contains(what);
    let unknown = said.lines().find_map(|line| {
        let name = line.split("Unable to locate package ").nth(1);
        name.or_else(|| line.strip_prefix("E: Package '")?.strip_suffix("' has no installation candidate"))
    });
    if let Some(name) = unknown {
        let nearest = nearest_package(host, name.trim()).await;
        let meant = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
        return format!(
            "correct the name `{}`{meant} Otherwise add the archive that has it by an `apt_repository` task before",
            name.trim()
        );
    }
    let next = if has("was not found") && has("Version") {
        "name a version that the archive has: `apt-cache madison PACKAGE` on the host lists them"
    } else if has("No space left on device")
        || has("not enough free space")
        || has("don't have enough free space")
    {
        "free space on the host (`df -h`; `apt-get clean`), then run again"
    } else if has("NO_PUBKEY") || has("not signed") {
        "give the archive's key to the `apt_repository` task (`key` or `key_url`)"
    } else if has("not valid yet") || has("is expired") {
        "see whether the host's clock is right (`timedatectl`)"
    } else if has("Could not resolve")
        || has("Could not connect")
        || has("Failed to fetch")
        || has("Unable to connect")
    {
        "see whether the host reaches its archives (name resolution, proxy, firewall), then run again"
    } else if has("unmet dependencies") {
        "see which of the packages conflict; a pinned version or a mix of releases is the usual cause"
    } else if has("Could not get lock") {
        "another package manager is at work; wait for it, then run again"
    } else {
        "see its last lines; repair the cause on the host, then run again"
    };
    next.to_owned()
}

async fn nearest_package(host: &Host, name: &str) -> Option<String> {
    let names = Invocation::new("apt-cache").arg("pkgnames").output(host).await.ok()?;
    let similarity = |candidate: &str| strsim::normalized_damerau_levenshtein(name, candidate);
    let candidates = names.stdout.lines().map(|candidate| (similarity(candidate), candidate));
    let best = candidates.filter(|(similarity, _)| *similarity > 0.75).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(best.1.to_owned())
}

/// Completes what an interrupted installation left.
pub(super) async fn repair(context: &Context<'_>) -> Result<(), Failure> {
    context.waiting("completing an interrupted installation");
    let configure = Invocation::new("dpkg")
        .args(["--force-confdef", "--force-confold", "--configure", "-a"])
        .environment("DEBIAN_FRONTEND", "noninteractive")
        .limit(LIMIT);
    if configure.output(context.host).await?.is_success() {
        return Ok(());
    }
    let fix = apt_get().args(["--fix-broken", "install"]);
    run(context.host, &fix, "an interrupted installation could not be completed").await.map(drop)
}

/// The version that apt would install, by the lists at hand.
pub(super) async fn candidate(
    host: &Host,
    name: &str,
    release: Option<&str>,
) -> Result<Option<String>, Failure> {
    let release = release.map(|release| ["-t", release]).into_iter().flatten();
    let policy = Invocation::new("apt-cache").args(release).args(["policy", "--", name]);
    let output = policy.success(host, "apt does not answer").await?;
    let line = output.stdout.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(line.filter(|version| *version != "(none)").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_held_and_released_and_a_policy_of_the_host_comes_back() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::at(root.path());
        std::fs::create_dir_all(host.path("/usr/sbin")).expect("a directory");
        std::fs::write(host.path(POLICY), "#!/bin/sh\nexit 0\n").expect("written");
        hold_services(&host).expect("held");
        hold_services(&host).expect("held by a run that was interrupted");
        assert!(are_services_held(&host).expect("readable"));
        release_services(&host).expect("released");
        release_services(&host).expect("nothing to release");
        assert_eq!(std::fs::read_to_string(host.path(POLICY)).expect("readable"), "#!/bin/sh\nexit 0\n");
        assert!(!host.path(POLICY_SAVED).exists());
    }
}
