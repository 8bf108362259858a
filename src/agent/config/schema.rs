//! The words of the configuration file: every key that Patroni knows, and what becomes of it here.

use crate::{
    diagnostic::{Diagnostic, Diagnostics, did_you_mean},
    yaml::{Node, kind},
};
use serde_json::Value;

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text; numbers and booleans are taken as written.
    Text,
    Number,
    Flag,
    List,
    /// A list, or text with commas or lines in it.
    TextOrList,
    /// A map whose keys are free.
    Map,
    Any,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Used,
    /// Has no meaning for this agent; said once, then ignored.
    Ignored(&'static str),
    /// Ignoring it would do something else than what was asked for.
    Refused(&'static str),
}

use Kind::{Any, Flag, List, Map, Number, Text, TextOrList};
use Support::{Ignored, Refused, Used};

const THREADS: Support = Ignored("this agent has no thread pool");
const LOGGING: Support = Ignored("the journal dates, keeps and rotates the log");
const LATER: Support = Ignored("this version does not do that");
const KEY_PASSWORD: Support =
    Refused("keys are read without a password; keep them readable by their owner alone");
const OTHER_STORE: Support = Refused("this version keeps the cluster in etcd alone");

/// Path, kind, support. Sections follow from the paths.
pub const KEYS: &[(&str, Kind, Support)] = &[
    ("name", Text, Used),
    ("scope", Text, Used),
    ("namespace", Text, Used),
    ("thread_pool_size", Number, THREADS),
    ("thread_stack_size", Text, THREADS),
    ("log.type", Text, Used),
    ("log.level", Text, Used),
    ("log.traceback_level", Text, LOGGING),
    ("log.format", Any, LOGGING),
    ("log.dateformat", Text, LOGGING),
    ("log.static_fields", Map, LOGGING),
    ("log.max_queue_size", Number, LOGGING),
    ("log.dir", Text, LOGGING),
    ("log.mode", Any, LOGGING),
    ("log.file_num", Number, LOGGING),
    ("log.file_size", Number, LOGGING),
    ("log.loggers", Map, LOGGING),
    ("log.deduplicate_heartbeat_logs", Flag, LOGGING),
    ("bootstrap.dcs", Map, Used),
    ("bootstrap.initdb", List, Used),
    ("bootstrap.pg_hba", TextOrList, Used),
    ("bootstrap.method", Text, LATER),
    ("bootstrap.post_bootstrap", Text, LATER),
    ("bootstrap.post_init", Text, LATER),
    ("bootstrap.users", Map, Refused("roles are made by the deploy side or by SQL")),
    ("etcd3.host", Text, Used),
    ("etcd3.hosts", TextOrList, Used),
    ("etcd3.url", Text, Used),
    ("etcd3.protocol", Text, Used),
    ("etcd3.username", Text, Used),
    ("etcd3.password", Text, Used),
    ("etcd3.port", Number, Used),
    ("etcd3.use_proxies", Flag, Ignored("the endpoints are asked as they are listed")),
    ("etcd3.proxy", Text, OTHER_STORE),
    ("etcd3.srv", Text, Refused("endpoints are not looked up in DNS; list them under `hosts`")),
    ("etcd3.srv_suffix", Text, LATER),
    ("etcd3.cacert", Text, Used),
    ("etcd3.cert", Text, Used),
    ("etcd3.key", Text, Used),
    ("etcd.host", Text, Used),
    ("etcd.hosts", TextOrList, Used),
    ("etcd.url", Text, Used),
    ("etcd.protocol", Text, Used),
    ("etcd.username", Text, Used),
    ("etcd.password", Text, Used),
    ("etcd.port", Number, Used),
    ("etcd.use_proxies", Flag, Ignored("the endpoints are asked as they are listed")),
    ("etcd.cacert", Text, Used),
    ("etcd.cert", Text, Used),
    ("etcd.key", Text, Used),
    ("zookeeper", Any, OTHER_STORE),
    ("consul", Any, OTHER_STORE),
    ("exhibitor", Any, OTHER_STORE),
    ("kubernetes", Any, OTHER_STORE),
    ("raft", Any, OTHER_STORE),
    ("citus", Any, Refused("this agent does not manage Citus")),
    ("postgresql.name", Text, Used),
    ("postgresql.listen", Text, Used),
    ("postgresql.connect_address", Text, Used),
    ("postgresql.proxy_address", Text, Used),
    ("postgresql.data_dir", Text, Used),
    ("postgresql.config_dir", Text, Used),
    ("postgresql.bin_dir", Text, Used),
    ("postgresql.bin_name", Map, LATER),
    ("postgresql.pgpass", Text, Used),
    ("postgresql.use_unix_socket", Flag, Used),
    ("postgresql.use_unix_socket_repl", Flag, LATER),
    ("postgresql.authentication.superuser.username", Text, Used),
    ("postgresql.authentication.superuser.password", Text, Used),
    ("postgresql.authentication.superuser.sslmode", Text, Used),
    ("postgresql.authentication.superuser.sslrootcert", Text, Used),
    ("postgresql.authentication.superuser.sslcert", Text, Used),
    ("postgresql.authentication.superuser.sslkey", Text, Used),
    ("postgresql.authentication.replication.username", Text, Used),
    ("postgresql.authentication.replication.password", Text, Used),
    ("postgresql.authentication.replication.sslmode", Text, Used),
    ("postgresql.authentication.replication.sslrootcert", Text, Used),
    ("postgresql.authentication.replication.sslcert", Text, Used),
    ("postgresql.authentication.replication.sslkey", Text, Used),
    ("postgresql.authentication.rewind.username", Text, Used),
    ("postgresql.authentication.rewind.password", Text, Used),
    ("postgresql.authentication.rewind.sslmode", Text, Used),
    ("postgresql.authentication.rewind.sslrootcert", Text, Used),
    ("postgresql.authentication.rewind.sslcert", Text, Used),
    ("postgresql.authentication.rewind.sslkey", Text, Used),
    ("postgresql.callbacks", Map, LATER),
    ("postgresql.create_replica_methods", List, Used),
    ("postgresql.create_replica_method", List, Used),
    ("postgresql.basebackup", Any, Used),
    ("postgresql.rewind", Any, LATER),
    ("postgresql.custom_conf", Text, Used),
    ("postgresql.parameters", Map, Used),
    ("postgresql.parameters_primary", Map, LATER),
    ("postgresql.parameters_replica", Map, LATER),
    ("postgresql.parameters_standby_leader", Map, LATER),
    ("postgresql.pg_hba", TextOrList, Used),
    ("postgresql.pg_hba_primary", TextOrList, LATER),
    ("postgresql.pg_hba_replica", TextOrList, LATER),
    ("postgresql.pg_hba_standby_leader", TextOrList, LATER),
    ("postgresql.pg_ident", TextOrList, Used),
    ("postgresql.pg_ident_primary", TextOrList, LATER),
    ("postgresql.pg_ident_replica", TextOrList, LATER),
    ("postgresql.pg_ident_standby_leader", TextOrList, LATER),
    ("postgresql.recovery_conf", Map, Used),
    ("postgresql.pg_ctl_timeout", Number, Used),
    (
        "postgresql.use_slots",
        Flag,
        Ignored("slots are switched for the whole cluster, in `bootstrap.dcs` or by PATCH /config"),
    ),
    ("postgresql.use_pg_rewind", Flag, Used),
    ("postgresql.remove_data_directory_on_rewind_failure", Flag, Used),
    ("postgresql.remove_data_directory_on_diverged_timelines", Flag, Used),
    ("postgresql.pre_promote", Text, LATER),
    ("postgresql.before_stop", Text, LATER),
    ("postgresql.krbsrvname", Text, LATER),
    ("restapi.listen", Text, Used),
    ("restapi.connect_address", Text, Used),
    ("restapi.authentication.username", Text, Used),
    ("restapi.authentication.password", Text, Used),
    ("restapi.certfile", Text, Used),
    ("restapi.keyfile", Text, Used),
    ("restapi.keyfile_password", Text, KEY_PASSWORD),
    ("restapi.cafile", Text, Used),
    ("restapi.ciphers", Text, Ignored("the ciphers of TLS 1.2 and 1.3 that are safe are used")),
    ("restapi.verify_client", Text, Used),
    ("restapi.allowlist", TextOrList, Refused("this version has no list of allowed clients; use a firewall")),
    (
        "restapi.allowlist_include_members",
        Flag,
        Refused("this version has no list of allowed clients; use a firewall"),
    ),
    ("restapi.http_extra_headers", Map, Used),
    ("restapi.https_extra_headers", Map, Used),
    ("restapi.request_queue_size", Number, THREADS),
    ("restapi.thread_pool_size", Number, THREADS),
    ("restapi.server_tokens", Text, Ignored("this agent sends no Server header")),
    ("ctl.authentication.username", Text, Ignored("clients read that")),
    ("ctl.authentication.password", Text, Ignored("clients read that")),
    ("ctl.insecure", Flag, Used),
    ("ctl.cacert", Text, Used),
    ("ctl.certfile", Text, Used),
    ("ctl.keyfile", Text, Used),
    ("ctl.keyfile_password", Text, Ignored("clients read that")),
    ("watchdog.mode", Text, Used),
    ("watchdog.device", Text, Used),
    ("watchdog.safety_margin", Number, Used),
    ("watchdog.driver", Text, LATER),
    ("tags", Map, Used),
];

/// Further connection parameters of libpq's, which our own connections would not heed.
const AUTHENTICATION: &[&str] =
    &["sslpassword", "sslcrl", "sslcrldir", "gssencmode", "channel_binding", "sslnegotiation"];

/// Checks every key of a file: unknown words and wrong kinds are errors, ignored ones warnings.
pub fn check(root: Node<'_>, findings: &mut Diagnostics) {
    if !root.is_map() {
        let message = format!("the configuration is {}, expected a map", kind(root.value()));
        findings.push(root.error(message).label("expected keys such as `scope`, `name`, `postgresql`"));
        return;
    }
    check_section(root, "", findings);
}

fn check_section(section: Node<'_>, path: &str, findings: &mut Diagnostics) {
    for (key, node) in section.entries() {
        let full = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        if let Some((_, kind, support)) = KEYS.iter().find(|(known, _, _)| *known == full) {
            check_value(&full, *kind, *support, &node, findings);
        } else if words_below(&full).next().is_some() {
            if node.is_map() {
                check_section(node, &full, findings);
            } else if !node.is_null() {
                let message = format!("`{full}` is {}, expected a map", kind(node.value()));
                findings.push(node.error(message).label("expected a map"));
            }
        } else if is_method(path, key, &section) {
            findings.push(warning(
                &node,
                format!("`{full}` is ignored: this version runs no methods of its own"),
            ));
        } else if path.starts_with("postgresql.authentication.") && AUTHENTICATION.contains(&key) {
            let message = format!("`{full}` is not supported: only libpq would heed it");
            findings.push(node.key_error(message).label("not supported"));
        } else {
            let section = if path.is_empty() { "the configuration".to_owned() } else { format!("`{path}`") };
            let known = words_below(path);
            findings.push(
                node.key_error(format!("unknown key `{key}` in {section}"))
                    .label("not a key of Patroni's configuration")
                    .helps(did_you_mean(key, known)),
            );
        }
    }
}

/// The words that may follow a path.
fn words_below(path: &str) -> impl Iterator<Item = &'static str> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let words = KEYS.iter().filter_map(move |(known, _, _)| known.strip_prefix(prefix.as_str()));
    words.map(|rest| rest.split('.').next().unwrap_or(rest))
}

/// The section of a bootstrap or replica method, which has the method's name.
fn is_method(path: &str, key: &str, section: &Node<'_>) -> bool {
    let named = |list: &str| match section.get(list).map(|node| node.value().clone()) {
        Some(Value::String(name)) => name == key,
        Some(Value::Array(names)) => names.iter().any(|name| name.as_str() == Some(key)),
        _ => false,
    };
    match path {
        "bootstrap" => named("method"),
        "postgresql" => named("create_replica_methods") || named("create_replica_method"),
        _ => false,
    }
}

fn check_value(full: &str, wanted: Kind, support: Support, node: &Node<'_>, findings: &mut Diagnostics) {
    match support {
        Refused(why) => {
            let message = format!("`{full}` is not supported: {why}");
            findings.push(node.key_error(message).label("not supported"));
            return;
        }
        Ignored(why) => {
            findings.push(warning(node, format!("`{full}` is ignored: {why}")));
            return;
        }
        Used => {}
    }
    let value = node.value();
    let scalar = value.is_string() || value.is_number() || value.is_boolean();
    let (fits, expected) = match wanted {
        Text => (scalar, "text"),
        Number => (value.is_number() || value.as_str().is_some_and(is_number), "a number"),
        Flag => (value.is_boolean() || value.as_str().is_some_and(is_flag), "true or false"),
        List => (value.is_array(), "a list"),
        TextOrList => (value.is_array() || value.is_string(), "a list"),
        Map => (value.is_object(), "a map"),
        Any => (true, ""),
    };
    if !fits && !value.is_null() {
        let message = format!("`{full}` is {}, expected {expected}", kind(value));
        findings.push(node.error(message).label(format!("expected {expected}")));
    }
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

fn is_flag(text: &str) -> bool {
    ["true", "false", "on", "off", "yes", "no", "1", "0"].contains(&text.to_ascii_lowercase().as_str())
}

fn warning(node: &Node<'_>, message: String) -> Diagnostic {
    Diagnostic { severity: crate::diagnostic::Severity::Warning, ..node.key_error(message) }.label("ignored")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Document;

    fn findings(text: &str) -> String {
        let document = Document::parse("patroni.yml", text).unwrap();
        let mut findings = Diagnostics::default();
        check(document.root(), &mut findings);
        findings.render(false)
    }

    #[test]
    fn no_key_is_listed_twice() {
        let mut paths: Vec<&str> = KEYS.iter().map(|(path, _, _)| *path).collect();
        paths.sort_unstable();
        assert!(paths.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn an_unknown_word_gets_the_nearest_one() {
        insta::assert_snapshot!(findings("scope: demo\npostgresql:\n  datadir: /data\n"), @r#"
error: unknown key `datadir` in `postgresql`
 --> patroni.yml:3:3
  |
3 |   datadir: /data
  |   ^^^^^^^ not a key of Patroni's configuration
  |
  = help: did you mean `data_dir`?
"#);
        insta::assert_snapshot!(findings("sope: demo\n"), @r#"
error: unknown key `sope` in the configuration
 --> patroni.yml:1:1
  |
1 | sope: demo
  | ^^^^ not a key of Patroni's configuration
  |
  = help: did you mean `scope`?
"#);
    }

    #[test]
    fn a_wrong_kind_says_what_is_expected() {
        insta::assert_snapshot!(findings("postgresql: yes\ntags: [nofailover]\nbootstrap:\n  dcs: 5\n"), @r#"
error: `postgresql` is text, expected a map
 --> patroni.yml:1:13
  |
1 | postgresql: yes
  |             ^^^ expected a map

error: `tags` is a list, expected a map
 --> patroni.yml:2:7
  |
2 | tags: [nofailover]
  |       ^^^^^^^^^^^^ expected a map

error: `bootstrap.dcs` is a number, expected a map
 --> patroni.yml:4:8
  |
4 |   dcs: 5
  |        ^ expected a map
"#);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        insta::assert_snapshot!(findings("log:\n  dir: /var/log\nrestapi:\n  keyfile_password: x\nzookeeper:\n  hosts: zoo:2181\n"), @r#"
warning: `log.dir` is ignored: the journal dates, keeps and rotates the log
 --> patroni.yml:2:3
  |
2 |   dir: /var/log
  |   ^^^ ignored

error: `restapi.keyfile_password` is not supported: keys are read without a password; keep them readable by their owner alone
 --> patroni.yml:4:3
  |
4 |   keyfile_password: *
  |   ^^^^^^^^^^^^^^^^ not supported

error: `zookeeper` is not supported: this version keeps the cluster in etcd alone
 --> patroni.yml:5:1
  |
5 | zookeeper:
  | ^^^^^^^^^ not supported
"#);
    }

    #[test]
    fn methods_have_sections_of_their_own() {
        let text = "postgresql:\n  create_replica_methods: [wal_e]\n  wal_e:\n    command: x\n";
        assert!(findings(text).contains("ignored"), "{}", findings(text));
        assert!(findings("postgresql:\n  wal_e: {}\n").contains("unknown key"));
    }
}
