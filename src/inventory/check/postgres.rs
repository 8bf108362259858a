//! PostgreSQL and what keeps it available.

use super::{Subject, warning};
use crate::diagnostic::{Diagnostics, did_you_mean, nearest};
use serde_json::Value;

pub(super) fn check(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    lease(subject, wrong);
    synchronous(subject, wrong);
    roles(subject, wrong);
    parameters(subject, wrong);
    hba(subject, wrong);
    tags(subject, wrong);
}

/// Within one lease an agent must be able to look, fail, and try once more.
fn lease(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let number = |name| subject.number(name).unwrap_or_default();
    let (ttl, loop_wait, retry) = (number("ttl"), number("loop_wait"), number("retry_timeout"));
    let needed = loop_wait + 2 * retry;
    if needed <= ttl {
        return;
    }
    let is_set = |name: &&str| subject.drafts.values().any(|draft| draft.vars.contains_key(*name));
    let at = ["ttl", "retry_timeout", "loop_wait"].into_iter().find(is_set).unwrap_or("ttl");
    wrong.push(
        subject
            .about(at, "the lease is too short for the agents to renew it".to_owned())
            .label(format!(
                "`loop_wait` {loop_wait} + 2 × `retry_timeout` {retry} = {needed}, but `ttl` is {ttl}"
            ))
            .help(format!("set `ttl` to {needed} or more, or lower `retry_timeout`")),
    );
}

fn synchronous(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let replicas = subject.size("postgres").saturating_sub(1) as u64;
    let count = subject.number("synchronous_node_count").unwrap_or(1);
    let mode = subject.text("synchronous_mode").unwrap_or("off");
    if mode == "off" || subject.size("postgres") == 0 {
        return;
    }
    if replicas == 0 {
        let message = format!("`synchronous_mode: {mode}` waits for replicas, and there are none");
        wrong.push(
            subject.about("synchronous_mode", message).label("expected `off`, or more hosts in `postgres`"),
        );
    } else if count > replicas {
        let message = format!("a commit is to wait for {count} replicas, and there are {replicas}");
        let diagnostic = subject.about("synchronous_node_count", message);
        wrong.push(diagnostic.label(format!("expected at most {replicas}")));
    }
}

fn roles(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let names = ["superuser_name", "replication_user", "rewind_user"];
    for (index, name) in names.iter().enumerate() {
        let Some(other) = names[..index].iter().find(|other| subject.text(other) == subject.text(name))
        else {
            continue;
        };
        let role = subject.text(name).unwrap_or_default();
        let is_set = subject.drafts.values().any(|draft| draft.vars.contains_key(*name));
        let (at, than) = if is_set { (*name, *other) } else { (*other, *name) };
        let message = format!("`{role}` is to be two roles");
        wrong.push(subject.about(at, message).label(format!("expected another name than that of `{than}`")));
    }
}

/// Settings that follow from something else, and what that is.
const GOVERNED: [(&str, &str); 17] = [
    ("archive_cleanup_command", "the agent's `postgresql.recovery_conf` (variable `agent`)"),
    ("cluster_name", "`cluster_name`"),
    ("config_file", "the agent"),
    ("data_directory", "`postgres_data_dir`"),
    ("external_pid_file", "the agent"),
    ("hba_file", "the agent"),
    ("hot_standby", "the agent"),
    ("ident_file", "the agent"),
    ("listen_addresses", "`postgres_listen`"),
    ("port", "`postgres_port`"),
    ("primary_conninfo", "the agent"),
    ("primary_slot_name", "the agent"),
    ("promote_trigger_file", "the agent"),
    ("recovery_target_timeline", "the agent"),
    ("standby_mode", "the agent"),
    ("synchronous_standby_names", "`synchronous_mode`"),
    ("unix_socket_directories", "`postgres_socket_dir`"),
];

/// Settings that no version from 13 on has, and what took their place.
const GONE: [(&str, &str); 4] = [
    ("wal_keep_segments", "wal_keep_size, in megabytes: 16 for each segment"),
    ("checkpoint_segments", "max_wal_size"),
    ("max_locks_per_xact", "max_locks_per_transaction"),
    ("unix_socket_directory", "the variable `postgres_socket_dir`"),
];

fn parameters(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let Some(Value::Object(parameters)) = subject.value("postgres_parameters") else { return };
    for name in parameters.keys() {
        if let Some((_, by)) = GOVERNED.iter().find(|(governed, _)| governed == name) {
            let message = format!("`{name}` cannot be set in `postgres_parameters`");
            wrong.push(
                within(subject, "postgres_parameters", name, message).label(format!("it is set by {by}")),
            );
        } else if let Some((_, instead)) = GONE.iter().find(|(gone, _)| gone == name) {
            let message = format!("PostgreSQL has no setting `{name}` any more");
            wrong.push(
                within(subject, "postgres_parameters", name, message).label(format!("expected {instead}")),
            );
        }
    }
}

/// A complaint at an entry of a map variable.
fn within(
    subject: &Subject<'_>,
    variable: &str,
    key: &str,
    message: String,
) -> crate::diagnostic::Diagnostic {
    match subject.drafts.values().find_map(|draft| draft.vars.get(variable)) {
        Some(definition) => definition.origin.key_within(key).key_error(message),
        None => subject.about(variable, message),
    }
}

const HBA_TYPES: [&str; 9] = [
    "local",
    "host",
    "hostssl",
    "hostnossl",
    "hostgssenc",
    "hostnogssenc",
    "include",
    "include_if_exists",
    "include_dir",
];
const HBA_METHODS: [&str; 14] = [
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
    "oauth",
];

fn hba(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let Some(Value::Array(lines)) = subject.value("postgres_hba") else { return };
    for (index, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.as_str().unwrap_or_default().split_whitespace().collect();
        let Some((reason, help)) = wrong_hba(&words) else { continue };
        let message = "this is not a line of pg_hba.conf".to_owned();
        let diagnostic = match subject.drafts.values().find_map(|draft| draft.vars.get("postgres_hba")) {
            Some(definition) => definition.origin.item_within(index).error(message),
            None => subject.about("postgres_hba", message),
        };
        wrong.push(diagnostic.label(reason).helps(help));
    }
}

/// Why the words of a line are no entry of pg_hba.conf.
fn wrong_hba(words: &[&str]) -> Option<(String, Option<String>)> {
    let kind = match words.first() {
        None => return Some(("the line is empty".to_owned(), None)),
        Some(first) if first.starts_with('#') || first.starts_with("include") => return None,
        Some(first) => *first,
    };
    if !HBA_TYPES.contains(&kind) {
        let expected = "expected `local`, `host`, `hostssl` or `hostnossl` first".to_owned();
        return Some((expected, did_you_mean(kind, HBA_TYPES)));
    }
    // A netmask may stand between address and method.
    let masked = words.get(4).is_some_and(|word| word.parse::<std::net::IpAddr>().is_ok());
    let at = if kind == "local" { 3 } else { 4 + usize::from(masked) };
    let Some(method) = words.get(at) else {
        let shape = if kind == "local" { "DATABASE USER METHOD" } else { "DATABASE USER ADDRESS METHOD" };
        return Some((format!("expected `{kind} {shape}`"), None));
    };
    if !HBA_METHODS.contains(method) {
        let help = nearest(method, HBA_METHODS).map(|meant| format!("did you mean `{meant}`?"));
        return Some((format!("`{method}` is no method of authentication"), help));
    }
    None
}

const TAGS: [&str; 8] = [
    "nofailover",
    "noloadbalance",
    "clonefrom",
    "nosync",
    "failover_priority",
    "sync_priority",
    "replicatefrom",
    "nostream",
];

/// Tags are free, so one that is nearly a known one is only mentioned.
fn tags(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    for host in subject.group("postgres") {
        let Some(Value::Object(tags)) = host.vars.get("agent_tags") else { continue };
        for tag in tags.keys().filter(|tag| !TAGS.contains(&tag.as_str())) {
            if let Some(meant) = nearest(tag, TAGS) {
                let message = format!("the tag `{tag}` has no meaning to the agent");
                let diagnostic = warning(subject.about_host(host, "agent_tags", message));
                wrong.push(diagnostic.help(format!("did you mean `{meant}`?")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wrong_hba;

    #[test]
    fn knows_lines_of_pg_hba() {
        let wrong =
            |line: &str| wrong_hba(&line.split_whitespace().collect::<Vec<_>>()).map(|(reason, _)| reason);
        for line in [
            "local all all peer",
            "local all all peer map=admins",
            "host all all 10.0.0.0/8 scram-sha-256",
            "host all all 10.0.0.0 255.0.0.0 scram-sha-256",
            "hostssl replication replicator samenet cert",
            "include_dir hba.d",
            "# a comment",
        ] {
            assert_eq!(wrong(line), None, "{line}");
        }
        assert_eq!(
            wrong("host all all scram-sha-256").as_deref(),
            Some("expected `host DATABASE USER ADDRESS METHOD`")
        );
        assert_eq!(
            wrong("host all all all scram").as_deref(),
            Some("`scram` is no method of authentication")
        );
        assert!(wrong("hots all all all md5").is_some());
        assert!(wrong("").is_some());
    }
}
