//! Is the machine itself fit: its system, its memory, its disks?

use super::{Findings, Found, bytes, needs};
use crate::remote::preflight::{Folder, Syncs};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Releases with packages that fit, each with the version of PostgreSQL that it brings; 0 where that moves.
const RELEASES: &[(&str, u64)] = &[
    ("bookworm", 15),
    ("trixie", 17),
    ("forky", 0),
    ("sid", 0),
    ("jammy", 14),
    ("noble", 16),
    ("plucky", 17),
    ("questing", 17),
];

pub fn system(found: &Found, own: &mut Findings<'_>) {
    let facts = &found.facts;
    let name = format!("{} {}", facts.distribution, facts.distribution_version);
    let name = name.trim();
    let release = facts.distribution_release.as_str();
    let known = RELEASES.iter().find(|(known, _)| *known == release);
    if facts.service_mgr != "systemd" {
        own.fail(
            "system",
            "systemd does not run here",
            "Boot the host with systemd: every service of the cluster is a unit of it.",
        );
    }
    if facts.os_family != "Debian" {
        own.fail(
            "system",
            format!("`{name}` is not supported: packages are installed by apt"),
            "Use Debian 12 or later, or Ubuntu 22.04 or later.",
        );
    } else if known.is_none() {
        own.warn(
            "system",
            format!("`{name}` ({release}) has not been tried"),
            "Debian 12 and later and Ubuntu 22.04 and later are known to work.",
        );
    }
    if !matches!(facts.architecture.as_str(), "x86_64" | "aarch64") {
        own.warn(
            "system",
            format!("the architecture `{}` has not been tried", facts.architecture),
            "x86_64 and aarch64 are known to work.",
        );
    }
    let postgres = found.needs.postgres.as_ref().filter(|postgres| !postgres.own_repository);
    if let (Some((_, packaged @ 1..)), Some(postgres)) = (known, postgres)
        && postgres.version != *packaged
    {
        own.warn(
            "system",
            format!("{release} itself has PostgreSQL {packaged}, not {}", postgres.version),
            format!(
                "Unless an archive of yours has it: `postgres_apt_repository: true`, or \
                 `postgres_version: {packaged}`."
            ),
        );
    }
    own.otherwise("system", || format!("{name} ({release}), {}", facts.architecture));
}

pub fn memory(found: &Found, own: &mut Findings<'_>) {
    let total = found.facts.memtotal_mb * MIB;
    let (least, good) = match found.needs.postgres {
        Some(_) => (256 * MIB, GIB),
        None => (128 * MIB, 256 * MIB),
    };
    let next = format!("Give it {} or more.", bytes(good));
    if total < least {
        own.fail("memory", format!("{} in all is too little", bytes(total)), next);
    } else if total < good {
        own.warn("memory", format!("{} in all is little", bytes(total)), next);
    }
    let wanted = found.needs.postgres.as_ref().and_then(|postgres| postgres.shared_buffers.as_deref());
    if let Some((text, size)) = wanted.and_then(|text| Some((text, setting_bytes(text)?))) {
        let quarter = format!("About a quarter serves most clusters best: {}.", bytes(total / 4));
        let all = bytes(total);
        if size >= total {
            own.fail("memory", format!("`shared_buffers: {text}` takes all of its {all}"), quarter);
        } else if size > total / 2 {
            own.warn("memory", format!("`shared_buffers: {text}` is more than half of its {all}"), quarter);
        }
    }
    own.otherwise("memory", || bytes(total));
}

/// The size that a memory setting of PostgreSQL means; without a unit it counts pages of 8 KiB.
pub fn setting_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" => 8192,
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => MIB,
        "GB" => GIB,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// What a folder is for, with how much room it takes at least and for a good start.
struct Purpose {
    what: &'static str,
    least: u64,
    good: u64,
    /// What is there must survive a reboot.
    lasting: bool,
    /// The variable that puts it elsewhere.
    variable: Option<&'static str>,
}

pub fn disk(found: &Found, own: &mut Findings<'_>) {
    for folder in &found.survey.folders {
        judge_folder(folder, &purpose(found, &folder.path), own);
    }
    own.otherwise("disk", || {
        let mut mounts: Vec<String> = Vec::new();
        for folder in &found.survey.folders {
            let told = format!("{} free on {}", bytes(folder.available_bytes), folder.mount);
            if !mounts.contains(&told) {
                mounts.push(told);
            }
        }
        mounts.join(", ")
    });
}

/// etcd's own documentation asks for this: a leader whose disk takes longer misses heartbeats.
const SYNC_MS: f64 = 10.0;

/// What services wait for when they write.
pub fn sync(found: &Found, own: &mut Findings<'_>) {
    for syncs in &found.survey.syncs {
        let Syncs { path, p50_ms, p99_ms } = syncs;
        let times = format!("an fdatasync in {path} takes {p50_ms:.1} ms, one in a hundred {p99_ms:.1} ms");
        if found.needs.etcd.as_ref().is_some_and(|etcd| etcd.data_dir == *path) {
            if *p99_ms > SYNC_MS {
                own.warn(
                    "fsync",
                    format!("{times}: etcd wants it below {SYNC_MS:.0} ms"),
                    "Put etcd on a faster disk that nobody else writes to (`etcd_data_dir`), or give it more time: \
                     `etcd_heartbeat_interval_ms`, `etcd_election_timeout_ms`.",
                );
            }
        } else if *p50_ms > SYNC_MS {
            own.warn(
                "fsync",
                format!("{times}: every commit waits for one"),
                "Put the WAL on a disk that is quicker to write, such as an SSD whose cache survives a power loss.",
            );
        }
    }
    if !found.survey.syncs.is_empty() {
        own.otherwise("fsync", || {
            let told = |syncs: &Syncs| format!("{:.1} ms in {}", syncs.p50_ms, syncs.path);
            found.survey.syncs.iter().map(told).collect::<Vec<_>>().join(", ")
        });
    }
}

fn purpose(found: &Found, path: &str) -> Purpose {
    if found.needs.postgres.as_ref().is_some_and(|postgres| postgres.data_dir == path) {
        let variable = Some("postgres_data_dir");
        return Purpose { what: "PostgreSQL's data", least: GIB, good: 5 * GIB, lasting: true, variable };
    }
    if let Some(etcd) = found.needs.etcd.as_ref().filter(|etcd| etcd.data_dir == path) {
        let (good, variable) = (etcd.quota_bytes, Some("etcd_data_dir"));
        return Purpose { what: "etcd's data", least: 256 * MIB, good, lasting: true, variable };
    }
    let (what, least, good) = match path {
        needs::PROGRAMS => ("programs", 300 * MIB, GIB),
        _ => ("downloaded packages", 100 * MIB, 500 * MIB),
    };
    Purpose { what, least, good, lasting: path == needs::PROGRAMS, variable: None }
}

fn judge_folder(folder: &Folder, purpose: &Purpose, own: &mut Findings<'_>) {
    let Folder { path, mount, fstype, .. } = folder;
    let what = purpose.what;
    let elsewhere = purpose
        .variable
        .map(|variable| format!(", or choose another folder by `{variable}`"))
        .unwrap_or_default();
    if folder.read_only {
        own.fail(
            "disk",
            format!("{mount} is mounted read-only: no place for {what} in {path}"),
            format!("Find out why (`findmnt {mount}`, `dmesg`) and mount it for writing{elsewhere}."),
        );
    } else if purpose.lasting && matches!(fstype.as_str(), "tmpfs" | "ramfs") {
        own.fail(
            "disk",
            format!("{path} is in memory ({fstype} on {mount}): {what} would be gone after a reboot"),
            format!("Mount a disk there{elsewhere}."),
        );
    } else if folder.available_files == Some(0) {
        own.fail(
            "disk",
            format!("{mount} has no inode left for {what} in {path}"),
            format!("Remove files there (`df -i {mount}`){elsewhere}."),
        );
    } else {
        let free = folder.available_bytes;
        let message = format!("{} free on {mount} for {what} in {path}", bytes(free));
        let next = format!("Make room for {} or more{elsewhere}.", bytes(purpose.good));
        if free < purpose.least {
            own.fail("disk", message, next);
        } else if free < purpose.good {
            own.warn("disk", message, next);
        }
    }
}
