//! The laws of the house: which room may import which, and that every file is somebody's module.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// `(room, rooms it must not import)`.
const LAWS: &[(&str, &[&str])] = &[
    ("model", &["crate::"]),
    (
        "agent",
        &[
            "cli",
            "ui",
            "inventory",
            "playbook",
            "template",
            "engine",
            "ssh",
            "remote",
            "cluster",
            "sandbox",
            "fleet",
            "journal",
        ],
    ),
    (
        "contract",
        &["agent", "cli", "ui", "inventory", "playbook", "template", "engine", "ssh", "remote", "cluster"],
    ),
    ("remote", &["agent", "cli", "ui", "inventory", "playbook", "template", "engine", "ssh", "cluster"]),
    ("inventory", &["agent", "cli", "ui", "engine", "ssh"]),
    ("playbook", &["agent", "cli", "ui", "engine", "ssh"]),
    ("template", &["agent", "cli", "ui", "engine", "ssh"]),
    (
        "secret",
        &["agent", "cli", "ui", "inventory", "playbook", "template", "engine", "ssh", "remote", "cluster"],
    ),
    ("engine", &["agent", "cli", "ui", "fleet", "journal"]),
    ("ssh", &["agent", "cli", "ui", "engine", "playbook", "template"]),
    ("cluster", &["agent", "cli", "ui", "fleet", "journal"]),
    ("fleet", &["agent", "cli", "ui", "playbook", "template", "journal"]),
    ("journal", &["agent", "cli", "ui", "playbook", "template", "fleet"]),
    (
        "pki",
        &["agent", "cli", "ui", "inventory", "playbook", "template", "engine", "ssh", "remote", "cluster"],
    ),
    ("tls", &["agent", "cli", "ui", "contract", "inventory", "pki", "engine", "ssh", "remote", "cluster"]),
    ("sandbox", &["agent", "cli", "ui"]),
    ("ui", &["agent", "cli", "fleet", "journal"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn rooms_import_only_what_the_laws_allow() {
    let mut broken = Vec::new();
    for (room, forbidden) in LAWS {
        for path in sources(&repository().join("src").join(room)) {
            let text = fs::read_to_string(&path).expect("a readable source");
            for (number, line) in
                text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for other in *forbidden {
                    let needle =
                        if other.ends_with("::") { (*other).to_owned() } else { format!("crate::{other}::") };
                    if line.contains(&needle) {
                        broken.push(format!(
                            "{}:{}: `{room}` must not use `{needle}`",
                            path.display(),
                            number + 1
                        ));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_ui_prints() {
    let mut broken = Vec::new();
    for path in sources(&repository().join("src")) {
        if path.starts_with(repository().join("src/ui")) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable source");
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("]
                .iter()
                .any(|call| code.starts_with(call))
            {
                broken.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "print through `ui`:\n{}", broken.join("\n"));
}

#[test]
fn serde_yaml_and_tera_each_have_one_user() {
    let mut broken = Vec::new();
    for path in sources(&repository().join("src")) {
        let text = fs::read_to_string(&path).expect("a readable source");
        let file =
            path.strip_prefix(repository()).expect("below the repository").to_string_lossy().into_owned();
        for (crate_name, owner) in [("serde_yaml::", "src/yaml"), ("tera::", "src/template/")] {
            let used =
                text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(crate_name));
            if used && !file.starts_with(owner) {
                broken.push(format!("{file} names `{crate_name}`; that is `{owner}`'s"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_file_has_one_subject_and_is_finished() {
    let mut broken = Vec::new();
    for path in sources(&repository().join("src")) {
        let text = fs::read_to_string(&path).expect("a readable source");
        let lines = text.lines().count();
        if lines > 600 {
            broken.push(format!("{}: {lines} lines; one subject per file", path.display()));
        }
        if ["todo!(", "unimplemented!(", "TODO", "FIXME"].iter().any(|word| text.contains(word)) {
            broken.push(format!("{}: unfinished", path.display()));
        }
        if !text.starts_with("//!") && !path.to_string_lossy().ends_with("tests.rs") {
            broken.push(format!("{}: does not say what it owns", path.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
