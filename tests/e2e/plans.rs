//! Plans that are kept, files that somebody changes by hand, and an inventory that is edited, on real hosts.

use super::harness::lab::Lab;
use std::{fs, os::unix::fs::PermissionsExt as _};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

/// An editor that does this to the file that it is given.
fn editor(folder: &std::path::Path, script: &str) -> std::path::PathBuf {
    let editor = folder.join("editor");
    fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o700)).unwrap();
    editor
}

#[test]
fn a_saved_plan_a_file_changed_by_hand_and_an_edited_inventory() {
    let lab = Lab::bootstrapped("demo", "trixie");
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("change.plan").display().to_string();
    let limit = ["-e", "haproxy_maxconn=1234"];
    assert_eq!(lab.pgfleet(&["status", "--drift"]).success().trim(), "Everything is as we left it.");

    // Somebody helps himself between the plan and its application.
    lab.pgfleet(&[&["plan", "-o", &plan][..], &limit].concat()).success();
    lab.scratch.on("haproxy-1", &format!("echo '# by hand' >> {CONFIG}"));
    let told = lab.pgfleet(&["status", "--drift"]);
    assert_eq!(told.code, Some(1), "{told}");
    assert!(told.stdout.contains("haproxy-1") && told.stdout.contains(CONFIG), "{told}");
    let moved = lab.pgfleet(&[&["apply", &plan][..], &limit].concat()).failure(1);
    assert!(moved.contains("haproxy-1") && moved.contains("make the plan anew"), "{moved}");
    let kept = lab.pgfleet(&[&["apply"][..], &limit].concat()).failure(1);
    assert!(kept.contains(CONFIG) && kept.contains("--overwrite-drift"), "{kept}");
    assert!(
        lab.scratch.on("haproxy-1", &format!("cat {CONFIG}")).contains("# by hand"),
        "it was overwritten"
    );

    // The decision is in the new plan.
    lab.pgfleet(&[&["plan", "-o", &plan, "--overwrite-drift"][..], &limit].concat()).success();
    lab.pgfleet(&[&["apply", &plan][..], &limit].concat()).success();
    let config = lab.scratch.on("haproxy-1", &format!("cat {CONFIG}"));
    assert!(config.contains("1234") && !config.contains("# by hand"), "{config}");
    lab.pgfleet(&["status", "--drift"]).success();

    // A word that is none leaves the inventory and the cluster as they are; a right one reaches the hosts.
    let before = fs::read_to_string(lab.inventory()).unwrap();
    let edit = |script: &str| {
        let mut command = lab.command(&["edit"]);
        super::harness::program::run(command.env("EDITOR", editor(folder.path(), script)))
    };
    let wrong = edit("sed -i 's/cluster_name:/haproxy_maxcon: 4321\\n    cluster_name:/' $1").failure(2);
    assert!(wrong.contains("haproxy_maxconn"), "{wrong}");
    assert_eq!(fs::read_to_string(lab.inventory()).unwrap(), before);
    edit("sed -i 's/cluster_name:/haproxy_maxconn: 4321\\n    cluster_name:/' $1").success();
    assert!(lab.scratch.on("haproxy-1", &format!("cat {CONFIG}")).contains("4321"));
    assert_eq!(lab.pgfleet(&["plan", "--detailed-exitcode"]).code, Some(0));

    // What a variable is behind is taken into the inventory; the rest is left, and told.
    lab.scratch.on("haproxy-1", &format!("sed -i 's/maxconn 4321/maxconn 5678/' {CONFIG}"));
    lab.pgfleet(&["import"]).success();
    let inventory = fs::read_to_string(lab.inventory()).unwrap();
    assert!(inventory.contains("haproxy_maxconn: 5678\n") && !inventory.contains("4321"), "{inventory}");
    assert_eq!(lab.pgfleet(&["plan", "--detailed-exitcode"]).code, Some(0));
    lab.scratch.on("haproxy-1", &format!("echo '# by hand' >> {CONFIG}"));
    let left = lab.pgfleet(&["import", "--format", "json"]);
    assert_eq!(left.code, Some(1), "{left}");
    let told: serde_json::Value = serde_json::from_str(&left.stdout).unwrap();
    assert_eq!(
        (&told["imported"], &told["left"][0]["path"]),
        (&serde_json::json!([]), &CONFIG.into()),
        "{told:#}"
    );
    assert_eq!(fs::read_to_string(lab.inventory()).unwrap(), inventory);
}
