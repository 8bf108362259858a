//! The cases, a row each. A snapshot holds all that a plan says.

use super::world::World;
use crate::postgres::support::{Lab, Node};
use futures_util::FutureExt;
use pgfleet::agent::postgres::Role;
use std::panic::AssertUnwindSafe;

/// Seven machines, as in the demo. The settings are those that the real server runs with.
const SEVEN: &str = "\
all:
  vars:
    cluster_name: demo
    tls: false
    postgres_version: 17
    postgres_data_dir: /var/lib/postgresql/17/plan
    superuser_password: super-secret
    replication_password: repl-secret
    rewind_password: rewind-secret
    manage_hosts_file: true
    postgres_parameters:
      max_connections: 30
      shared_buffers: 16MB
      work_mem: 4MB
  children:
    etcd:
      hosts:
        etcd-1: {ansible_host: 10.128.0.26}
        etcd-2: {ansible_host: 10.128.0.11}
        etcd-3: {ansible_host: 10.128.0.31}
    postgres:
      hosts:
        pg-1: {ansible_host: 10.128.0.12}
        pg-2: {ansible_host: 10.128.0.13}
        pg-3: {ansible_host: 10.128.0.14}
    haproxy:
      hosts:
        haproxy-1: {ansible_host: 10.128.0.40}
";

/// Two machines with everything and a third vote.
const TWO: &str = "\
all:
  vars:
    cluster_name: files
    tls: false
    postgres_version: 17
    postgres_data_dir: /var/lib/postgresql/17/plan
    superuser_password: super-secret
    replication_password: repl-secret
    rewind_password: rewind-secret
    vip: 10.73.0.172/24
    vip_interface: host0
    vip_password: vip-pass
  children:
    postgres:
      hosts:
        pgdb1: {ansible_host: 10.73.0.160}
        pgdb2: {ansible_host: 10.73.0.170}
    etcd:
      hosts:
        pgdb1:
        pgdb2:
        etcd1: {ansible_host: 10.73.0.171}
    haproxy:
      hosts:
        pgdb1:
        pgdb2:
    keepalived:
      hosts:
        pgdb1:
        pgdb2:
";

/// One machine.
const ONE: &str = "\
all:
  vars:
    cluster_name: single
    tls: false
    postgres_version: 17
    postgres_data_dir: /var/lib/postgresql/17/plan
    superuser_password: super-secret
    replication_password: repl-secret
    rewind_password: rewind-secret
    postgres_parameters:
      shared_buffers: 16MB
  children:
    postgres:
      hosts:
        pg-1: {ansible_host: 10.90.0.11}
    etcd:
      hosts:
        pg-1:
";

/// What no plan may tell.
const SECRETS: [&str; 5] = ["super-secret", "repl-secret", "other-secret", "vip-pass", "vip-word"];

const HAPROXY: &str = "etc/haproxy/haproxy.cfg";
const MEMORY: &str = "var/lib/pgfleet/put";

/// A case: its name, the inventory before, and what happens before the plan is made.
type Case = (&'static str, &'static str, fn(&mut World));

const CASES: &[Case] = &[
    ("nothing_has_changed", SEVEN, |_| {}),
    ("nothing_has_changed_on_two", TWO, |_| {}),
    // Settings of PostgreSQL.
    ("a_setting_that_takes_a_reload", SEVEN, |world| world.change("work_mem: 4MB", "work_mem: 8MB")),
    ("a_setting_that_takes_a_restart", SEVEN, |world| {
        world.change("shared_buffers: 16MB", "shared_buffers: 32MB");
    }),
    ("a_setting_that_standbys_must_not_lack_raised", SEVEN, |world| {
        world.change("max_connections: 30", "max_connections: 50");
    }),
    ("a_setting_that_standbys_must_not_lack_lowered", SEVEN, |world| {
        world.change("max_connections: 30", "max_connections: 25");
    }),
    ("a_restart_with_nobody_to_switch_to", ONE, |world| {
        world.change("shared_buffers: 16MB", "shared_buffers: 32MB");
    }),
    ("a_setting_is_taken_back", SEVEN, |world| world.change("work_mem: 4MB", "work_mem: null")),
    ("a_setting_that_the_server_does_not_know", SEVEN, |world| {
        world.change("work_mem: 4MB", "work_mem: 4MB\n      demo.colour: blue");
    }),
    ("several_settings_at_once", SEVEN, |world| {
        world.change("work_mem: 4MB", "maintenance_work_mem: 128MB\n      wal_level: logical");
    }),
    ("a_setting_of_failover", SEVEN, |world| {
        world.change("manage_hosts_file", "ttl: 8\n    manage_hosts_file")
    }),
    ("access_rules", SEVEN, |world| {
        world.change(
            "manage_hosts_file",
            "postgres_hba: [host all all 10.0.0.0/8 scram-sha-256]\n    manage_hosts_file",
        );
    }),
    ("commits_wait_for_a_replica", SEVEN, |world| {
        world.change("manage_hosts_file", "synchronous_mode: \"on\"\n    manage_hosts_file");
    }),
    // Files and their services.
    ("a_setting_of_haproxy", SEVEN, |world| {
        world.change("manage_hosts_file", "haproxy_maxconn: 1234\n    manage_hosts_file");
    }),
    ("a_setting_of_two_haproxies", TWO, |world| world.change("vip: ", "haproxy_maxconn: 1234\n    vip: ")),
    ("ports_of_haproxy", SEVEN, |world| {
        world.change("manage_hosts_file", "haproxy_primary_port: 5431\n    manage_hosts_file");
    }),
    ("a_setting_of_etcd", SEVEN, |world| {
        world.change("manage_hosts_file", "etcd_heartbeat_interval_ms: 150\n    manage_hosts_file");
    }),
    ("a_setting_of_etcd_beside_databases", TWO, |world| {
        world.change("vip: ", "etcd_heartbeat_interval_ms: 150\n    vip: ");
    }),
    ("a_setting_of_the_agents", SEVEN, |world| {
        world.change("manage_hosts_file", "agent_log_level: debug\n    manage_hosts_file");
    }),
    ("a_member_that_shall_not_lead", SEVEN, |world| {
        world.change("10.128.0.14}", "10.128.0.14, agent_tags: {nofailover: true}}");
    }),
    ("a_password", SEVEN, |world| world.change("repl-secret", "other-secret")),
    ("the_virtual_address", TWO, |world| world.change("10.73.0.172", "10.73.0.173")),
    ("the_password_of_the_virtual_address", TWO, |world| world.change("vip-pass", "vip-word")),
    ("a_kernel_parameter", SEVEN, |world| {
        world.change("manage_hosts_file", "sysctl: {vm.swappiness: 10}\n    manage_hosts_file");
    }),
    ("how_many_files_may_be_open", SEVEN, |world| {
        world.change("manage_hosts_file", "open_files_limit: 100000\n    manage_hosts_file");
    }),
    ("haproxy_and_a_setting_at_once", SEVEN, |world| {
        world.change("work_mem: 4MB", "work_mem: 8MB");
        world.change("manage_hosts_file", "haproxy_maxconn: 1234\n    manage_hosts_file");
    }),
    // Hosts.
    ("a_database_host_more", SEVEN, |world| {
        world.change("10.128.0.14}\n", "10.128.0.14}\n        pg-4: {ansible_host: 10.128.0.15}\n");
    }),
    ("a_database_host_less", SEVEN, |world| {
        world.change("        pg-3: {ansible_host: 10.128.0.14}\n", "");
    }),
    ("an_address_has_changed", SEVEN, |world| world.change("10.128.0.14", "10.128.0.99")),
    ("nothing_is_there_yet", ONE, |world| {
        world.forget_cluster();
        for path in ["etc", "var", "sys", "usr"] {
            world.remove("pg-1", path);
        }
        world.change("10.90.0.11", "10.90.0.12");
    }),
    // What somebody did on the hosts.
    ("a_file_was_edited", SEVEN, |world| world.edit("haproxy-1", HAPROXY, "maxconn 2000", "maxconn 99")),
    ("a_file_was_edited_and_is_given_up", SEVEN, |world| {
        world.edit("haproxy-1", HAPROXY, "maxconn 2000", "maxconn 99");
        world.options.overwrite_drift = true;
    }),
    ("a_file_was_edited_into_what_is_wanted", SEVEN, |world| {
        world.edit("haproxy-1", HAPROXY, "maxconn 2000", "maxconn 1234");
        world.change("manage_hosts_file", "haproxy_maxconn: 1234\n    manage_hosts_file");
    }),
    ("a_unit_was_edited", SEVEN, |world| {
        world.edit("etcd-2", "etc/systemd/system/etcd.service", "[Service]", "[Service]\nNice=5");
    }),
    ("a_line_of_ours_among_others_was_edited", SEVEN, |world| {
        world.edit("pg-2", "etc/hosts", "10.128.0.12 pg-1", "10.128.0.77 pg-1");
    }),
    ("a_line_of_others_was_edited", SEVEN, |world| {
        world.edit("pg-2", "etc/hosts", "localhost", "localhost me");
    }),
    ("a_file_was_removed", SEVEN, |world| world.remove("haproxy-1", HAPROXY)),
    ("a_mode_was_changed", SEVEN, |world| {
        use std::os::unix::fs::PermissionsExt;
        let path = world.path("pg-1", "etc/pgfleet/agent.yml");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("changed");
    }),
    ("a_host_that_was_set_up_without_us", SEVEN, |world| {
        world.remove("haproxy-1", MEMORY);
        world.write("haproxy-1", HAPROXY, "global\n");
    }),
    ("a_service_is_down", SEVEN, |world| world.stop("haproxy-1", "haproxy")),
    ("a_service_would_not_start_at_boot", SEVEN, |world| world.disable("etcd-3", "etcd")),
    ("a_package_is_gone", SEVEN, |world| {
        world.edit("haproxy-1", "var/lib/dpkg/status", "Package: haproxy\n", "Package: hitch\n");
    }),
    ("a_run_died_before_its_handler", SEVEN, |world| {
        let folder = world.path("haproxy-1", "var/lib/pgfleet/debts");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("0"), "reload haproxy").expect("written");
    }),
    // Parts of it.
    ("one_host_of_several_that_differ", SEVEN, |world| {
        world.change("manage_hosts_file", "agent_log_level: debug\n    manage_hosts_file");
        world.options.limit = Some("pg-2");
    }),
    ("one_tag_of_several_that_differ", SEVEN, |world| {
        world.change(
            "manage_hosts_file",
            "agent_log_level: debug\n    haproxy_maxconn: 1234\n    manage_hosts_file",
        );
        world.options.tags = vec!["haproxy"];
    }),
];

async fn server(lab: &mut Lab) -> Node {
    let node = lab.node("primary");
    node.server.initdb().await.expect("initdb");
    node.start(Role::Primary).await;
    node
}

as_postgres!(cases_read_as_they_should, async |lab| {
    let node = server(lab).await;
    assert!(CASES.len() >= 40);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut wrong = Vec::new();
    for (name, inventory, change) in CASES {
        let case = async {
            let mut world = World::new(inventory, &node).await;
            world.applied().await;
            change(&mut world);
            let plan = world.plan().await;
            assert!(!SECRETS.iter().any(|secret| plan.contains(secret)), "{plan}");
            settings.bind(|| insta::assert_snapshot!(*name, plan));
        };
        // All that are wrong are told at once.
        if AssertUnwindSafe(case).catch_unwind().await.is_err() {
            wrong.push(*name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
});

as_postgres!(a_saved_plan_refuses_what_has_moved, async |lab| {
    let node = server(lab).await;
    let mut world = World::new(SEVEN, &node).await;
    world.applied().await;
    world.change("manage_hosts_file", "haproxy_maxconn: 1234\n    manage_hosts_file");
    let (plan, _) = world.saved().await;
    let text = serde_json::to_string(&plan).expect("a document");
    assert!(!text.contains("-secret"), "{text}");
    let moved = |plan: &pgfleet::engine::SavedPlan,
                 (now, report): (pgfleet::engine::SavedPlan, pgfleet::engine::Report)| {
        match (plan.fits(&now.inputs), plan.compare(&report)) {
            (Err(wrong), _) => {
                wrong.0.iter().map(|wrong| wrong.message.clone()).collect::<Vec<_>>().join("; ")
            }
            (Ok(()), Err(moved)) => moved.to_string(),
            (Ok(()), Ok(())) => "nothing".to_owned(),
        }
    };
    assert_eq!(moved(&plan, world.saved().await), "nothing");
    world.edit("haproxy-1", HAPROXY, "maxconn 2000", "maxconn 99");
    assert_eq!(
        moved(&plan, world.saved().await),
        "haproxy-1: HAProxy's configuration: what it finds on the host has changed"
    );
    world.edit("haproxy-1", HAPROXY, "maxconn 99", "maxconn 2000");
    assert_eq!(moved(&plan, world.saved().await), "nothing", "as it was");
    world.stop("etcd-2", "etcd");
    assert_eq!(moved(&plan, world.saved().await), "etcd-2: etcd runs: what it finds on the host has changed");
    world.change("haproxy_maxconn: 1234", "haproxy_maxconn: 1235");
    let told = moved(&plan, world.saved().await);
    assert!(told.starts_with("the inventory has changed for "), "{told}");
});
