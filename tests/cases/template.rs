//! Wrong templates: each is rendered for a host with a few variables.

use pgfleet::template::Templates;
use serde_json::json;

#[test]
fn wrong_templates_are_explained() {
    super::check("template", 10, |case| {
        let folder = case.parent().expect("a folder");
        let templates = Templates::new(vec![folder.to_owned()]).expect("an environment");
        let vars = json!({
            "inventory_hostname": "pg-1", "postgres_port": 5432, "postgres_version": 17, "cluster_name": "demo",
            "address": "10.0.0.1", "groups": {"etcd": ["etcd-1"]}, "hostvars": {"etcd-1": {"address": "10.0.0.2"}},
            "flag": "perhaps", "settings": {"work_mem": "8MB"}
        });
        let name = case.file_name().expect("a name").to_string_lossy();
        match templates.render_file(&name, vars.as_object().expect("a map")) {
            Err(wrong) => wrong.render(false),
            Ok(text) => panic!("{} is not wrong: {text}", case.display()),
        }
    });
}
