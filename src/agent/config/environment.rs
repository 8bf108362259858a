//! `PATRONI_*` variables: each stands for one path of the configuration file.

use super::schema::{self, Kind, Support};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, did_you_mean},
    yaml::Document,
};
use serde_json::Value;

/// A setting that the environment makes.
pub struct Setting {
    pub path: String,
    pub value: Value,
    pub variable: String,
}

/// Names whose path does not follow from the schema: `PATRONI_REPLICATION_USERNAME` and the like.
const SHORT: &[(&str, &str)] = &[
    ("SUPERUSER_USERNAME", "postgresql.authentication.superuser.username"),
    ("SUPERUSER_PASSWORD", "postgresql.authentication.superuser.password"),
    ("REPLICATION_USERNAME", "postgresql.authentication.replication.username"),
    ("REPLICATION_PASSWORD", "postgresql.authentication.replication.password"),
    ("REWIND_USERNAME", "postgresql.authentication.rewind.username"),
    ("REWIND_PASSWORD", "postgresql.authentication.rewind.password"),
    ("SUPERUSER_SSLMODE", "postgresql.authentication.superuser.sslmode"),
    ("SUPERUSER_SSLROOTCERT", "postgresql.authentication.superuser.sslrootcert"),
    ("SUPERUSER_SSLCERT", "postgresql.authentication.superuser.sslcert"),
    ("SUPERUSER_SSLKEY", "postgresql.authentication.superuser.sslkey"),
    ("REPLICATION_SSLMODE", "postgresql.authentication.replication.sslmode"),
    ("REPLICATION_SSLROOTCERT", "postgresql.authentication.replication.sslrootcert"),
    ("REPLICATION_SSLCERT", "postgresql.authentication.replication.sslcert"),
    ("REPLICATION_SSLKEY", "postgresql.authentication.replication.sslkey"),
    ("REWIND_SSLMODE", "postgresql.authentication.rewind.sslmode"),
    ("REWIND_SSLROOTCERT", "postgresql.authentication.rewind.sslrootcert"),
    ("REWIND_SSLCERT", "postgresql.authentication.rewind.sslcert"),
    ("REWIND_SSLKEY", "postgresql.authentication.rewind.sslkey"),
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("CTL_USERNAME", "ctl.authentication.username"),
    ("CTL_PASSWORD", "ctl.authentication.password"),
    ("LOGLEVEL", "log.level"),
    ("LOGFORMAT", "log.format"),
    ("LOG_DATEFMT", "log.dateformat"),
];

/// Variables that tell Patroni where its configuration is, and those of its container images.
const NOT_SETTINGS: &[&str] = &["CONFIGURATION", "CONFIG_FILE", "CONFIG_LOCATION", "VERSION"];

/// The settings among the variables. Unknown ones are warnings: an environment is shared with others.
pub fn settings(
    environment: impl IntoIterator<Item = (String, String)>,
    findings: &mut Diagnostics,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix("PATRONI_") else { continue };
        if NOT_SETTINGS.contains(&name) || text.is_empty() {
            continue;
        }
        let Some((path, kind, support)) = path_of(name) else {
            let known: Vec<String> = names().collect();
            let warning = Diagnostic::warning(format!("`{variable}` is ignored: no setting has this name"));
            findings.push(warning.helps(did_you_mean(name, known.iter().map(String::as_str))));
            continue;
        };
        match (support, value(kind, &text)) {
            (Support::Used, Some(value)) => settings.push(Setting { path: path.to_owned(), value, variable }),
            (Support::Used, None) => {
                findings.push(Diagnostic::error(format!("`{variable}` does not hold a value for `{path}`")));
            }
            (Support::Ignored(why), _) => {
                findings.push(Diagnostic::warning(format!("`{variable}` is ignored: {why}")));
            }
            (Support::Refused(why), _) => {
                findings.push(Diagnostic::error(format!("`{variable}` is not supported: {why}")));
            }
        }
    }
    settings
}

fn path_of(name: &str) -> Option<(&'static str, Kind, Support)> {
    let path = SHORT.iter().find(|(short, _)| *short == name).map(|(_, path)| *path);
    let row = schema::KEYS
        .iter()
        .find(|(known, _, _)| path.map_or_else(|| variable_name(known) == name, |path| path == *known));
    row.copied()
}

fn variable_name(path: &str) -> String {
    path.replace('.', "_").to_ascii_uppercase()
}

fn names() -> impl Iterator<Item = String> {
    let paths = schema::KEYS.iter().map(|(path, _, _)| variable_name(path));
    paths.chain(SHORT.iter().map(|(short, _)| (*short).to_owned()))
}

/// The text as a value of a kind; lists and maps are YAML, with or without their brackets.
fn value(kind: Kind, text: &str) -> Option<Value> {
    let yaml =
        |text: String| Document::parse("environment", text).ok().map(|document| document.value().clone());
    match kind {
        Kind::Text => Some(Value::String(text.to_owned())),
        Kind::Number => yaml(text.to_owned()).filter(Value::is_number),
        Kind::Flag => Some(Value::String(text.to_owned())),
        Kind::List | Kind::TextOrList => {
            let bare = !text.trim_start().starts_with('-') && !text.contains('[');
            yaml(if bare { format!("[{text}]") } else { text.to_owned() }).filter(Value::is_array)
        }
        Kind::Map => {
            let bare = !text.trim_start().starts_with('{');
            yaml(if bare { format!("{{{text}}}") } else { text.to_owned() }).filter(Value::is_object)
        }
        Kind::Any => yaml(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(variables: &[(&str, &str)]) -> (Vec<(String, Value)>, String) {
        let mut findings = Diagnostics::default();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = settings(variables, &mut findings);
        (settings.into_iter().map(|setting| (setting.path, setting.value)).collect(), findings.render(false))
    }

    #[test]
    fn every_variable_has_one_path() {
        let (settings, findings) = read(&[
            ("PATRONI_SCOPE", "demo"),
            ("PATRONI_ETCD3_HOSTS", "a:2379, b:2379"),
            ("PATRONI_ETCD3_PASSWORD", "x"),
            ("PATRONI_REPLICATION_PASSWORD", "secret"),
            ("PATRONI_POSTGRESQL_DATA_DIR", "/data"),
            ("PATRONI_RESTAPI_CONNECT_ADDRESS", "10.0.0.1:8008"),
            ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "a: b"),
            ("PATRONI_CONFIGURATION", "{}"),
            ("HOME", "/"),
        ]);
        assert_eq!(findings, "");
        assert_eq!(
            settings,
            [
                ("scope".to_owned(), json!("demo")),
                ("etcd3.hosts".to_owned(), json!(["a:2379", "b:2379"])),
                ("etcd3.password".to_owned(), json!("x")),
                ("postgresql.authentication.replication.password".to_owned(), json!("secret")),
                ("postgresql.data_dir".to_owned(), json!("/data")),
                ("restapi.connect_address".to_owned(), json!("10.0.0.1:8008")),
                ("restapi.http_extra_headers".to_owned(), json!({"a": "b"})),
            ]
        );
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let (settings, findings) = read(&[("PATRONI_SKOPE", "demo"), ("PATRONI_ZOOKEEPER", "x")]);
        assert!(settings.is_empty());
        insta::assert_snapshot!(findings, @r#"
warning: `PATRONI_SKOPE` is ignored: no setting has this name
 |
 = help: did you mean `SCOPE`?

error: `PATRONI_ZOOKEEPER` is not supported: this version keeps the cluster in etcd alone
"#);
    }
}
