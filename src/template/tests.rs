use super::*;
use serde_json::json;

fn templates() -> Templates {
    Templates::new(Vec::new()).unwrap()
}

fn vars() -> Map<String, Value> {
    json!({
        "name": "pg1", "port": 5432, "yes": true, "list": [1, 2], "map": {"a": 1, "b": {"c": "x"}}, "nothing": null,
        "postgres_port": 5432, "text_no": "no", "hosts": [{"n": "a", "up": true}, {"n": "b", "up": false}],
        "hostvars": {"a": {"ip": "192.0.2.1"}, "b": {"ip": "192.0.2.2"}}
    })
    .as_object()
    .unwrap()
    .clone()
}

fn at() -> Location {
    Location::new("play.yml", 1, 1)
}

fn render(text: &str) -> String {
    templates().render(text, &vars(), &at()).unwrap_or_else(|wrong| wrong.render(false))
}

fn value(text: &str) -> Value {
    templates().value(&json!(text), &vars(), &at()).unwrap()
}

fn wrong(text: &str) -> String {
    let mut templates = templates();
    let source = format!("- when: \"{text}\"\n");
    templates.remember(Path::new("play.yml"), source.into());
    templates.value(&json!(text), &vars(), &Location::new("play.yml", 1, 9)).unwrap_err().render(false)
}

#[test]
fn a_lone_expression_keeps_its_type() {
    assert_eq!(value("{{ port }}"), json!(5432));
    assert_eq!(value("{{ list }}"), json!([1, 2]));
    assert_eq!(value(" {{ map.b }} "), json!({"c": "x"}));
    assert_eq!(value("{{ yes and port > 5000 }}"), json!(true));
    assert_eq!(value("{{ nothing }}"), json!(null));
    assert_eq!(value("{{ name }}"), json!("pg1"));
    assert_eq!(value("{{ port }}!"), json!("5432!"));
    assert_eq!(value("plain"), json!("plain"));
    assert_eq!(value("{{ [n for n in list] }}"), json!([1, 2]));
    assert_eq!(value("{{ 'a' if yes else 'b' }}"), json!("a"));
}

#[test]
fn values_are_rendered_deeply_and_omit_leaves_out() {
    let deep = json!({"{{ name }}": ["{{ port }}", {"x": "{{ missing | default(omit) }}"}], "n": 1});
    assert_eq!(templates().value(&deep, &vars(), &at()).unwrap(), json!({"pg1": [5432, {}], "n": 1}));
}

#[test]
fn the_filters_that_people_know() {
    for (text, expected) in [
        ("{{ missing | default('x') }}", "x"),
        ("{{ missing | d(port) }}", "5432"),
        ("{{ nothing | default('x', true) }}", "x"),
        ("{{ list | join('-') }}", "1-2"),
        ("{{ map | to_json }}", r#"{"a":1,"b":{"c":"x"}}"#),
        ("{{ map | to_yaml }}", "a: 1\nb:\n  c: x\n"),
        ("{{ '7' | int + 1 }}", "8"),
        ("{{ 'x' | int(3) }}", "3"),
        ("{{ 'yes' | bool }}", "true"),
        ("{{ yes | ternary('a', 'b') }}", "a"),
        ("{{ \"it's\" | quote }}", "\"it's\""),
        ("{{ 'a b' | quote }}", "'a b'"),
        ("{{ 'a1b2' | regex_replace('[0-9]', '') }}", "ab"),
        ("{{ 'ab' | regex_replace('(a)(b)', '\\\\2\\\\1') }}", "ba"),
        ("{{ '192.0.2.7/24' | ipaddr('address') }}", "192.0.2.7"),
        ("{{ '192.0.2.7/24' | ipaddr('prefix') }}", "24"),
        ("{{ '192.0.2.7/24' | ipaddr('subnet') }}", "192.0.2.0/24"),
        ("{{ hosts | selectattr('up') | map(attribute='n') | list | join(',') }}", "a"),
        ("{{ hosts | rejectattr('n', 'equalto', 'a') | map(attribute='n') | join }}", "b"),
        ("{{ ['a', 'b'] | map('extract', hostvars, 'ip') | join(',') }}", "192.0.2.1,192.0.2.2"),
        ("{{ ['a'] | map('upper') | first }}", "A"),
        ("{{ ['a'] | map('regex_replace', '^', 'x-') | join }}", "x-a"),
        ("{{ list | union([3]) | difference([1]) | to_json }}", "[2,3]"),
        ("{{ map | combine({'a': 2}) | to_json }}", r#"{"a":2,"b":{"c":"x"}}"#),
        ("{{ map | dict2items | length }}", "2"),
        ("{% for k, v in map.items() %}{{ k }};{% endfor %}", "a;b;"),
        ("{{ '17.2' is version('17', '>=') }}", "true"),
        ("{{ map is mapping }}", "true"),
        ("{{ name is match('pg') }}", "true"),
        ("{{ '/a/b.c' | basename }}{{ '/a/b.c' | dirname }}", "b.c/a"),
        ("{{ map.get('z', 9) }}", "9"),
    ] {
        assert_eq!(render(text), expected, "{text}");
    }
}

#[test]
fn every_filter_and_test_that_hints_name_exists() {
    let templates = templates();
    for name in filters::FILTERS {
        templates.check(&format!("{{{{ 'x' | {name} }}}}"), &at()).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    for name in filters::TESTS {
        templates.check(&format!("{{{{ 'x' is {name} }}}}"), &at()).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn conditions() {
    let templates = templates();
    let holds = |expression: &str| templates.condition(expression, &vars(), &at()).unwrap();
    assert!(holds("port == 5432 and name in ['pg1']"));
    assert!(holds("missing is not defined"));
    assert!(holds("missing is defined and missing.x == 1 or yes"));
    assert!(!holds("text_no"));
    assert!(!holds("nothing"));
    assert!(holds("{{ yes }}"));
    assert!(!holds("false"));
    assert!(holds("list"));
    assert!(holds("name | length > 2"));
    assert!(
        templates.condition("name", &vars(), &at()).unwrap_err().message.contains("neither true nor false")
    );
    assert_eq!(
        templates.condition("nmae == 'x'", &vars(), &at()).unwrap_err().message,
        "undefined variable `nmae`"
    );
}

#[test]
fn mistakes_name_the_place_and_the_nearest_word() {
    insta::assert_snapshot!(wrong("{{ postgres_prot }}"), @r#"
    error: undefined variable `postgres_prot`
     --> play.yml:1:13
      |
    1 | - when: "{{ postgres_prot }}"
      |             ^^^^^^^^^^^^^ no variable of this name is set
      |
      = help: did you mean `postgres_port`?
    "#);
    insta::assert_snapshot!(wrong("x {{ map.b.d }}"), @r#"
    error: undefined attribute `d`
     --> play.yml:1:21
      |
    1 | - when: "x {{ map.b.d }}"
      |                     ^ the value has no such attribute
      |
      = help: there are: c
    "#);
    insta::assert_snapshot!(wrong("x {{ name | uper }}"), @r#"
    error: unknown filter `uper`
     --> play.yml:1:22
      |
    1 | - when: "x {{ name | uper }}"
      |                      ^^^^ no filter has this name
      |
      = help: did you mean `upper`?
    "#);
    insta::assert_snapshot!(wrong("x {{ postgres_prot | upper }}"), @r#"
    error: undefined variable `postgres_prot`
     --> play.yml:1:15
      |
    1 | - when: "x {{ postgres_prot | upper }}"
      |               ^^^^^^^^^^^^^ no variable of this name is set
      |
      = help: did you mean `postgres_port`?
    "#);
    insta::assert_snapshot!(wrong("{{ name | int }}"), @r#"
    error: `pg1` is not a whole number
     --> play.yml:1:20
      |
    1 | - when: "{{ name | int }}"
      |                    ^^^
    "#);
    insta::assert_snapshot!(wrong("{% if prot == 1 %}x{% endif %}"), @r#"
    error: undefined variable `prot`
     --> play.yml:1:16
      |
    1 | - when: "{% if prot == 1 %}x{% endif %}"
      |                ^^^^ no variable of this name is set
      |
      = help: did you mean `port`?
    "#);
    insta::assert_snapshot!(wrong("{{ name "), @r#"
    error: the template ends too early
     --> play.yml:1:13
      |
    1 | - when: "{{ name "
      |             ^^^^ something is open here
      |
      = help: a `{{`, or a tag such as `{% if %}` or `{% for %}`, is not closed
    "#);
}

#[test]
fn variables_may_be_defined_by_variables() {
    let mut vars = vars();
    vars.insert("url".to_owned(), json!("http://{{ name }}:{{ port }}"));
    vars.insert("deep".to_owned(), json!({"port": "{{ port }}", "urls": ["{{ url }}"]}));
    vars.insert("circle".to_owned(), json!("{{ circle }}"));
    vars.insert("printed".to_owned(), json!({"changed": false, "stdout": "{{ nonsense"}));
    let value = |text: &str| templates().value(&json!(text), &vars, &at());
    assert_eq!(value("{{ deep }}").unwrap(), json!({"port": 5432, "urls": ["http://pg1:5432"]}));
    assert_eq!(value("{{ printed.stdout }}").unwrap(), json!("{{ nonsense"));
    assert!(value("{{ circle }}").unwrap_err().message.contains("defined by itself"));
}

#[test]
fn shared_variables_are_seen_and_overridden() {
    let mut templates = templates();
    templates.share(json!({"groups": {"etcd": ["e1"]}, "name": "shared"}).as_object().unwrap()).unwrap();
    assert_eq!(templates.render("{{ groups.etcd | join }} {{ name }}", &vars(), &at()).unwrap(), "e1 pg1");
}

#[test]
fn every_shipped_template_compiles() {
    let templates = templates();
    for (name, _) in shipped() {
        templates.check_file(name).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn files_on_disk_come_first_and_complain_with_their_path() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.j2"),
        "{% for n in list %}\n{{ n }}\n{% endfor %}\n{% include 'b.j2' %}",
    )
    .unwrap();
    std::fs::write(folder.path().join("b.j2"), "port\n  = {{ postgres_prot }}\n").unwrap();
    let templates = Templates::new(vec![folder.path().to_owned()]).unwrap();
    let found = templates.render_file("a.j2", &vars()).unwrap_err();
    let place = found.at.clone().unwrap();
    assert_eq!((place.file.file_name().unwrap().to_str().unwrap(), place.line, place.column), ("b.j2", 2, 8));
    std::fs::write(folder.path().join("b.j2"), "end\n").unwrap();
    let templates = Templates::new(vec![folder.path().to_owned()]).unwrap();
    assert_eq!(templates.render_file("a.j2", &vars()).unwrap(), "1\n2\nend\n");
    assert!(templates.render_file("nope.j2", &vars()).unwrap_err().message.contains("no template `nope.j2`"));
}
