//! etcd and ZooKeeper.

use super::{Subject, warning};
use crate::diagnostic::Diagnostics;

pub(super) fn check(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let chosen = subject.text("dcs").unwrap_or("etcd");
    let other = if chosen == "etcd" { "zookeeper" } else { "etcd" };
    if subject.size(chosen) == 0 {
        let set = subject.drafts.values().any(|draft| draft.vars.contains_key("dcs"));
        let why = if set { "which `dcs` says holds" } else { "which would hold" };
        let message = format!("no host is in the group `{chosen}`, {why} the leader's lock");
        let diagnostic = if set { subject.about("dcs", message) } else { subject.at_group(chosen, message) };
        let help = match subject.size(other) {
            0 => format!("name one, three or five machines below `children: {{{chosen}: {{hosts: ...}}}}`"),
            _ => format!("the inventory has hosts in `{other}`: set `dcs: {other}`, or leave `dcs` out"),
        };
        wrong.push(diagnostic.label(format!("expected hosts in `{chosen}`")).help(help));
    } else if subject.size(other) > 0 {
        let message = format!("the group `{other}` has hosts, but the cluster uses {chosen}");
        let diagnostic = subject.at_group(other, message).label(format!("`dcs` is `{chosen}`"));
        wrong.push(diagnostic.help(format!("remove the group, or set `dcs: {other}`")));
    }
    if chosen == "zookeeper" && subject.size("zookeeper") > 0 {
        let message =
            "this version of pgfleet sets up no ZooKeeper, and its agent speaks to etcd alone".to_owned();
        let diagnostic =
            warning(subject.at_group("zookeeper", message)).label("the hosts can be described, not deployed");
        wrong.push(diagnostic.help("name the machines below `etcd` to deploy the cluster with it"));
    }
    odd_members(subject, chosen, wrong);
    etcd_archive(subject, wrong);
    etcd_timing(subject, wrong);
}

fn odd_members(subject: &Subject<'_>, group: &str, wrong: &mut Diagnostics) {
    let members = subject.size(group);
    if members == 0 {
        return;
    }
    if members.is_multiple_of(2) {
        let survives = (members - 1) / 2;
        let failures = if survives == 1 { "failure" } else { "failures" };
        let message = format!("{members} members of {group} are an even number");
        wrong.push(
            subject
                .at_group(group, message)
                .label(format!("{members} survive {survives} {failures}, the same as {}", members - 1))
                .help(format!("use {} or {}; a small machine is enough for one", members - 1, members + 1)),
        );
    } else if members > 7 {
        let message = format!("{members} members of {group} make every write slower");
        wrong.push(warning(subject.at_group(group, message)).label("five survive two failures"));
    }
}

fn etcd_archive(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let (archive, sha256) = (subject.text("etcd_archive"), subject.text("etcd_archive_sha256"));
    if subject.text("etcd_install") == Some("archive") {
        if archive.is_none() {
            wrong.push(
                subject.about("etcd_install", "etcd is to come from an archive, but none is named".to_owned())
                    .label("expected `etcd_archive` with it")
                    .help("set `etcd_archive` to the release's .tar.gz, and `etcd_archive_sha256` to its SHA-256"),
            );
        } else if sha256.is_none() {
            wrong.push(
                subject
                    .about("etcd_archive", "the archive of etcd has no checksum".to_owned())
                    .label("expected `etcd_archive_sha256` with it")
                    .help("`sha256sum FILE` prints it; the release's SHA256SUMS file lists it"),
            );
        }
    } else if archive.is_some() {
        let message = "`etcd_archive` has no effect: etcd comes from the distribution's package".to_owned();
        let diagnostic = warning(subject.about("etcd_archive", message));
        wrong.push(diagnostic.label("`etcd_install` is `package`").help("set `etcd_install: archive`"));
    }
}

fn etcd_timing(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let (Some(heartbeat), Some(election)) =
        (subject.number("etcd_heartbeat_interval_ms"), subject.number("etcd_election_timeout_ms"))
    else {
        return;
    };
    if election < 5 * heartbeat {
        let message = "etcd's election timeout is too short for its heartbeat interval".to_owned();
        let at =
            match subject.drafts.values().any(|draft| draft.vars.contains_key("etcd_election_timeout_ms")) {
                true => "etcd_election_timeout_ms",
                false => "etcd_heartbeat_interval_ms",
            };
        let expected = format!("{election} ms, expected at least 5 × {heartbeat} ms = {} ms", 5 * heartbeat);
        wrong.push(subject.about(at, message).label(expected));
    }
}
