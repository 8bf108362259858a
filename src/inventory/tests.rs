//! What an inventory comes to. Wrong ones are in `tests/cases/inventory/`.

use super::*;
use serde_json::json;
use std::fs;

/// A folder with the given files; the first is the inventory.
struct Folder(tempfile::TempDir, PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let inventory = folder.path().join(files[0].0);
        Folder(folder, inventory)
    }

    fn load(&self, extra: &[&str]) -> Inventory {
        let extra: Vec<String> = extra.iter().map(|text| (*text).to_owned()).collect();
        Inventory::inspect(&self.1, &extra).unwrap_or_else(|wrong| panic!("{wrong}"))
    }
}

const BASE: &str = "
all:
  vars: {cluster_name: demo, ttl: 20, custom: {from: all}}
  children:
    etcd:
      hosts: {'e[1:3]': {}}
    postgres:
      vars: {postgres_port: 5433, custom: {from: postgres}}
      children:
        east: {hosts: {pg1: {postgres_port: '5434'}}}
        west: {hosts: {pg2: }, vars: {custom: {from: west}}}
";

fn names(hosts: Vec<&Host>) -> String {
    hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn merges_by_precedence_of_ansible() {
    let folder = Folder::new(&[
        ("demo.yml", BASE),
        ("group_vars/all.yml", "haproxy_maxconn: 1\nagent_api_port: 8101\npostgres_port: 5435\n"),
        ("group_vars/postgres/ports.yml", "agent_api_port: 8102\n"),
        ("host_vars/pg2", "agent_api_port: 8103\n"),
    ]);
    let inventory = folder.load(&["ttl=30", "{\"loop_wait\": 2}"]);
    let var = |host: &str, name: &str| inventory.hosts[host].vars[name].clone();
    // group_vars/ wins over groups in the file, the host in the file over both.
    assert_eq!(var("pg1", "postgres_port"), json!(5434));
    assert_eq!(var("pg2", "postgres_port"), json!(5435));
    assert_eq!(var("pg1", "agent_api_port"), json!(8102));
    assert_eq!(var("pg2", "agent_api_port"), json!(8103));
    assert_eq!(var("e1", "agent_api_port"), json!(8101));
    // A child wins over its parent, `-e` over all; maps are replaced, not merged.
    assert_eq!(var("e1", "custom"), json!({"from": "all"}));
    assert_eq!(var("pg1", "custom"), json!({"from": "postgres"}));
    assert_eq!(var("pg2", "custom"), json!({"from": "west"}));
    assert_eq!(var("e2", "ttl"), json!(30));
    assert_eq!(var("e2", "loop_wait"), json!(2));
    assert_eq!(inventory.hosts["pg2"].groups, ["postgres", "west"]);
}

#[test]
fn a_variable_of_the_cluster_holds_everywhere() {
    let text =
        BASE.replace("postgres_port: 5433", "postgres_version: 16").replace("ttl: 20", "retry_timeout: 1");
    let inventory = Folder::new(&[("demo.yml", &text)]).load(&[]);
    assert_eq!(inventory.hosts["e1"].vars["postgres_version"], json!(16));
    assert_eq!(inventory.hosts["pg1"].vars["postgres_data_dir"], json!("/var/lib/postgresql/16/demo"));
}

#[test]
fn patterns_choose_in_the_order_of_the_inventory() {
    let inventory = Folder::new(&[("demo.yml", BASE)]).load(&[]);
    let chosen = |pattern: &str| names(inventory.select(pattern).unwrap_or_else(|wrong| panic!("{wrong}")));
    assert_eq!(chosen("all"), "e1 e2 e3 pg1 pg2");
    assert_eq!(chosen("postgres:etcd"), "e1 e2 e3 pg1 pg2");
    assert_eq!(chosen("postgres:&west"), "pg2");
    assert_eq!(chosen("all:!postgres:!e1"), "e2 e3");
    assert_eq!(chosen("e?:!e1"), "e2 e3");
    assert_eq!(chosen("e*:!e?"), "pg1", "a glob matches groups too");
    assert_eq!(chosen("*1"), "e1 pg1");
    assert_eq!(chosen("!etcd"), "pg1 pg2");
    assert_eq!(chosen("haproxy"), "", "a group of the catalogue that nobody is in");
    insta::assert_snapshot!(inventory.select("postgers").err().unwrap().render(false), @r"
    error: `postgers` is no host and no group of the inventory
     |
     = note: expected the name of a group or host, a glob, or `all`
     = help: did you mean `postgres`?
    ");
}

#[test]
fn values_may_be_templates_of_other_values() {
    let text = BASE.replace(
        "custom: {from: all}",
        "custom: {disk: /disk1}, postgres_version: 17, postgres_data_dir: \"{{ custom.disk }}/{{ postgres_bin_dir | replace(from='/', to='_') }}\", \
         postgres_bin_dir: \"/opt/pg{{ postgres_version }}\", haproxy_maxconn: \"{{ ttl }}\"",
    );
    let text = text.replace(", custom: {from: postgres}", "").replace(", vars: {custom: {from: west}}", "");
    let inventory = Folder::new(&[("demo.yml", &text)]).load(&[]);
    assert_eq!(inventory.hosts["pg1"].vars["postgres_data_dir"], json!("/disk1/_opt_pg17"));
    assert_eq!(inventory.hosts["e1"].vars["haproxy_maxconn"], json!(20));
}

#[test]
fn facts_complete_what_depends_on_the_host() {
    let inventory = Folder::new(&[("demo.yml", BASE)]).load(&[]);
    let host = &inventory.hosts["pg1"];
    assert!(!inventory.variables(host).contains_key("postgres_version"));
    let facts = json!({"distribution_release": "bookworm"});
    let vars = inventory.complete(host, facts.as_object().unwrap()).unwrap();
    assert_eq!(vars["postgres_version"], json!(15));
    assert_eq!(vars["postgres_data_dir"], json!("/var/lib/postgresql/15/demo"));
    assert_eq!(vars["inventory_hostname"], json!("pg1"));
}

#[test]
fn passwords_are_generated_once_and_known_as_secrets() {
    let folder =
        Folder::new(&[("demo.yml", &BASE.replace("ttl: 20", "tls: false, rewind_password: chosen"))]);
    let first = Inventory::load(&folder.1, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let second = Inventory::load(&folder.1, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let password = |inventory: &Inventory| inventory.superuser().unwrap().password;
    assert_eq!(password(&first), password(&second));
    assert_eq!(first.rewind().unwrap().password.expose(), "chosen");
    let secrets = first.secrets();
    assert_eq!(secrets.len(), 3);
    assert!(secrets.contains(&password(&first)));
    let kept = fs::read_to_string(folder.0.path().join("demo.secrets.yml")).unwrap();
    assert!(kept.contains(password(&first).expose()));
    assert!(!kept.contains("chosen"), "what the user set stays where the user put it");
}

#[test]
fn connections_are_as_ansible_describes_them() {
    let text = BASE.replace(
        "pg1: {",
        "pg1: {ansible_ssh_host: 10.0.0.1, ansible_port: '2222', ansible_user: admin, ansible_become_pass: x, \
         ansible_ssh_common_args: -J 'bastion', ansible_ssh_private_key_file: /k, ",
    );
    let inventory = Folder::new(&[("demo.yml", &text)]).load(&[]);
    let connection = &inventory.hosts["pg1"].connection;
    assert_eq!(
        connection,
        &Connection {
            host: "10.0.0.1".to_owned(),
            port: Some(2222),
            user: Some("admin".to_owned()),
            password: None,
            private_key_file: Some("/k".into()),
            ssh_args: vec!["-J".to_owned(), "bastion".to_owned()],
            host_key_checking: true,
            r#become: true,
            become_user: "root".to_owned(),
            become_password: Some(Secret::new("x")),
        }
    );
    assert_eq!(inventory.hosts["pg2"].connection.host, "pg2");
    assert_eq!(inventory.hosts["pg2"].connection.port, None);
}

#[test]
fn the_shipped_inventories_load_without_a_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".yml") || name.ends_with(".secrets.yml") {
            continue;
        }
        let inventory = Inventory::inspect(&entry.path(), &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(inventory.warnings, [], "{name}");
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn the_shipped_inventories_say_where_to_connect() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories");
    let load =
        |name: &str| Inventory::inspect(&folder.join(name), &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let demo = load("demo.yml");
    assert_eq!(demo.write_endpoints(), ["10.128.0.40:5431"]);
    assert_eq!(demo.read_endpoints(), ["10.128.0.40:5433"]);
    assert_eq!(demo.dcs_endpoints(), ["10.128.0.26:2379", "10.128.0.11:2379", "10.128.0.31:2379"]);
    assert_eq!(demo.dcs_folder(), "/service/demo/");
    let vip = load("two-nodes-and-a-vip.yml");
    assert_eq!(vip.write_endpoints(), ["10.73.0.172:5000"]);
    assert_eq!(vip.hosts["pgdb2"].vars["vip_priority"], json!(99));
    assert_eq!(load("single.yml").write_endpoints(), ["10.90.0.11:5432"]);
}

#[test]
fn a_range_of_a_thousand_hosts_loads() {
    let text = "all:\n  vars: {cluster_name: big}\n  children:\n    etcd: {hosts: {\"e[1:3]\": }}\n    postgres: {hosts: {\"pg[1:1000]\": }}\n";
    let inventory = Folder::new(&[("big.yml", text)]).load(&[]);
    assert_eq!(inventory.hosts.len(), 1003);
    assert_eq!(inventory.select("pg*:!pg1*").unwrap().len(), 888);
}
