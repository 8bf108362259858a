use super::*;
use serde_json::json;
use std::fs;

/// Writes files into a directory and loads the first of them.
fn load(files: &[(&str, &str)]) -> Result<Playbook, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let path = folder.path().join(files[0].0);
    let shown = format!("{}/", folder.path().display());
    Playbook::load(path.to_str().unwrap(), &Sources::default())
        .map_err(|wrong| wrong.render(false).replace(&shown, ""))
}

fn tasks(text: &str) -> Vec<Task> {
    let playbook = load(&[("play.yml", &format!("- hosts: all\n  tasks:\n{text}"))]);
    playbook.unwrap_or_else(|wrong| panic!("{wrong}")).plays.remove(0).tasks
}

#[test]
fn a_whole_play() {
    let playbook = load(&[(
        "play.yml",
        r#"
- name: Everything
  hosts: [postgres, "!pg3"]
  serial: [1, "50%"]
  order: reverse_sorted
  become: yes
  gather_facts: false
  any_errors_fatal: true
  vars: { a: 1 }
  tags: [one, two]
  tasks:
    - name: Write
      ansible.builtin.template: { src: x.j2, dest: /etc/x, mode: "0644" }
      when:
        - a == 1
        - b is defined
      notify: [reload, "restart it"]
      register: written
      tags: three
    - shell: echo hi creates=/tmp/x
      args: { chdir: /tmp }
      changed_when: false
      until: written is changed
      retries: 5
      delay: 1
      no_log: true
      run_once: true
      delegate_to: pg1
  handlers:
    - name: reload
      service: name=x state=reloaded
    - name: other
      listen: restart it
      systemd: { name: x, state: restarted }
"#,
    )])
    .unwrap();
    let play = &playbook.plays[0];
    assert_eq!(play.hosts, "postgres:!pg3");
    assert_eq!(play.serial, [Serial::Hosts(1), Serial::Percent(50)]);
    assert_eq!(
        (play.order, play.r#become, play.vars.get("a")),
        (Order::ReverseSorted, Some(true), Some(&json!(1)))
    );
    let [write, shell] = play.tasks.as_slice() else { panic!("two tasks") };
    assert_eq!(write.when, ["a == 1", "b is defined"]);
    assert_eq!(write.tags, ["one", "two", "three"]);
    assert_eq!(
        (write.notify.join(","), write.register.as_deref()),
        ("reload,restart it".into(), Some("written"))
    );
    assert_eq!((write.at.line, write.at.column), (12, 7));
    let Action::Module { name, args } = &shell.action else { panic!("a module") };
    assert_eq!(
        (name.as_str(), args),
        ("shell", &json!({"creates": "/tmp/x", "cmd": "echo hi", "chdir": "/tmp"}))
    );
    assert_eq!((shell.retries, shell.delay_secs, shell.no_log, shell.run_once), (5, 1, true, true));
    assert_eq!((shell.name.as_str(), shell.changed_when.join("")), ("shell", "false".into()));
    let Action::Module { name, args } = &play.handlers[0].action else { panic!("a module") };
    assert_eq!((name.as_str(), args), ("service", &json!({"name": "x", "state": "reloaded"})));
    assert!(play.handlers[1].answers_to("restart it") && !play.handlers[0].answers_to("restart it"));
}

#[test]
fn blocks_are_flattened_and_hand_on_their_words() {
    let tasks = tasks(
        r#"
    - when: outer
      tags: t1
      become: true
      vars: { x: 1, y: 1 }
      block:
        - command: one
          when: inner
          vars: { y: 2 }
        - block:
            - command: two
              become: false
          tags: [t2]
    - command: three
"#,
    );
    assert_eq!(tasks.len(), 3);
    assert_eq!(tasks[0].when, ["outer", "inner"]);
    assert_eq!(json!(tasks[0].vars), json!({"x": 1, "y": 2}));
    assert_eq!((tasks[1].tags.join(","), tasks[1].r#become), ("t1,t2".into(), Some(false)));
    assert_eq!((tasks[2].when.len(), tasks[2].r#become), (0, None));
}

#[test]
fn imports_and_includes() {
    let playbook = load(&[
        (
            "site.yml",
            "- import_playbook: sub/one.yml\n  when: ready\n  tags: [site]\n  vars: { v: importer }\n- import_playbook: verify.yml\n",
        ),
        (
            "sub/one.yml",
            "- hosts: all\n  vars: { v: own, w: own }\n  tasks:\n    - import_tasks: two.yml\n      when: a\n    - include_tasks: { file: two.yml }\n      loop: [1, 2]\n    - include_tasks: '{{ name }}.yml'\n  handlers:\n    - name: h\n      command: x\n",
        ),
        ("sub/two.yml", "- command: one\n  when: b\n  notify: h\n"),
    ])
    .unwrap();
    let play = &playbook.plays[0];
    assert_eq!(json!(play.vars), json!({"v": "importer", "w": "own"}));
    assert_eq!(play.tasks[0].when, ["ready", "a", "b"]);
    assert_eq!(play.tasks[0].tags, ["site"]);
    assert!(play.tasks[0].at.file.ends_with("sub/two.yml"));
    let Action::IncludeTasks(include) = &play.tasks[1].action else { panic!("an include") };
    assert_eq!(include.tasks.as_ref().unwrap()[0].when, ["b"]);
    assert_eq!(play.tasks[1].r#loop, Some(json!([1, 2])));
    let Action::IncludeTasks(include) = &play.tasks[2].action else { panic!("an include") };
    assert!(include.tasks.is_none());
    assert!(playbook.plays.len() > 1, "a built-in playbook is found beside those on disk");
}

#[test]
fn handlers_can_be_imported() {
    let playbook = load(&[
        (
            "site.yml",
            "- hosts: all\n  tasks: [{command: x, notify: again}]\n  handlers:\n    - import_tasks: two.yml\n",
        ),
        ("two.yml", "- name: first\n  listen: again\n  command: a\n- name: again\n  command: b\n"),
    ])
    .unwrap();
    let handlers = &playbook.plays[0].handlers;
    let names: Vec<&str> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["first", "again"]);
    assert!(handlers.iter().all(|handler| handler.answers_to("again")));
}

#[test]
fn an_include_with_a_rendered_name_is_read_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("play.yml");
    fs::write(&path, "- hosts: all\n  tasks:\n    - include_tasks: '{{ which }}.yml'\n").unwrap();
    fs::write(folder.path().join("late.yml"), "- command: x\n").unwrap();
    fs::write(folder.path().join("wrong.yml"), "- command: x\n  notify: nobody\n").unwrap();
    fs::write(folder.path().join("circle.yml"), "- include_tasks: circle.yml\n").unwrap();
    let playbook = Playbook::load(path.to_str().unwrap(), &Sources::default()).unwrap();
    let play = &playbook.plays[0];
    let Action::IncludeTasks(include) = &play.tasks[0].action else { panic!("an include") };
    assert_eq!(playbook.include(include, "late.yml", play).unwrap().len(), 1);
    assert!(
        playbook
            .include(include, "wrong.yml", play)
            .unwrap_err()
            .render(false)
            .contains("no handler `nobody`")
    );
    assert!(
        playbook.include(include, "circle.yml", play).unwrap_err().render(false).contains("imports itself")
    );
    assert!(playbook.include(include, "none.yml", play).is_err());
}

#[test]
fn tags_select_as_in_ansible() {
    let selects = |own: &str, tags: &str, skip: &str| {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        super::model::selected(&words(own), &words(tags), &words(skip))
    };
    for (own, tags, skip, expected) in [
        ("", "", "", true),
        ("a", "", "", true),
        ("a", "a", "", true),
        ("a", "b", "", false),
        ("", "b", "", false),
        ("always", "b", "", true),
        ("always", "b", "always", false),
        ("always a", "", "a", false),
        ("never", "", "", false),
        ("never a", "a", "", true),
        ("never a", "never", "", true),
        ("never", "all", "", false),
        ("a", "tagged", "", true),
        ("", "tagged", "", false),
        ("", "untagged", "", true),
        ("a", "untagged", "", false),
        ("a b", "a", "b", false),
        ("always", "", "all", true),
        ("a", "", "tagged", false),
    ] {
        assert_eq!(selects(own, tags, skip), expected, "[{own}] --tags [{tags}] --skip-tags [{skip}]");
    }
}

#[test]
fn batches_have_at_least_one_host() {
    assert_eq!(Serial::Percent(30).of(10), 3);
    assert_eq!(Serial::Percent(30).of(2), 1);
    assert_eq!(Serial::Hosts(2).of(1), 2);
}

#[test]
fn short_forms() {
    let tasks = tasks(
        "    - debug: msg=\"{{ a }} b\"\n    - meta: flush_handlers\n    - file: path=/x state=directory\n    - set_fact: { a: 1, cacheable: yes }\n    - assert: { that: a == 1 }\n",
    );
    assert!(matches!(&tasks[0].action, Action::Debug(Debug::Msg(msg)) if msg == "{{ a }} b"));
    assert!(matches!(tasks[1].action, Action::FlushHandlers));
    assert!(matches!(&tasks[2].action, Action::Module { args, .. } if args["state"] == "directory"));
    assert!(matches!(&tasks[3].action, Action::SetFact(facts) if facts.len() == 1));
    assert!(matches!(&tasks[4].action, Action::Assert { that, .. } if that == &["a == 1"]));
}

#[test]
fn all_mistakes_are_reported_together() {
    let wrong = load(&[("play.yml", "- hosts: all\n  taks: []\n  serial: 0\n- tasks: []\n")]).unwrap_err();
    for part in
        ["unknown word `taks`", "did you mean `tasks`?", "`0` is not a number of hosts", "has no `hosts`"]
    {
        assert!(wrong.contains(part), "{part} in\n{wrong}");
    }
}

#[test]
fn every_shipped_playbook_loads_and_its_templates_compile() {
    let templates = Templates::new(Vec::new()).unwrap();
    for name in names() {
        let playbook = Playbook::load(name, &Sources::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
        playbook.check_templates(&templates).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(playbook.directory().is_none());
    }
}
