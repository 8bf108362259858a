//! Configuration files and parameters.

use pgfleet::agent::postgres::{Error, Role};

as_postgres!(parameters_are_reloaded_or_wait_for_a_restart, async |lab| {
    let primary = lab.primary("primary").await;
    let change = async |changes: &[(&str, &str)]| {
        let mut settings = (*primary.server.settings()).clone();
        for (name, value) in changes {
            settings.parameters.insert((*name).to_owned(), (*value).to_owned());
        }
        primary.server.reconfigure(settings).await
    };
    let same =
        change(&[("shared_buffers", "16384kB"), ("wal_level", "hot_standby")]).await.expect("reconfigured");
    assert!(same.pending_restart.is_empty(), "{:?}", same.pending_restart);

    let reloaded = change(&[("work_mem", "5MB"), ("max_connections", "40")]).await.expect("reconfigured");
    assert!(reloaded.reloaded);
    assert_eq!(primary.text("SHOW work_mem").await, "5MB");
    let pending: Vec<&str> = reloaded.pending_restart.keys().map(String::as_str).collect();
    assert_eq!(pending, ["max_connections"]);
    assert_eq!(reloaded.pending_restart["max_connections"].new, "40");
    let again = change(&[]).await.expect("reconfigured");
    assert!(!again.reloaded && again.pending_restart.len() == 1);

    primary.server.restart(&Role::Primary, super::support::PATIENCE).await.expect("a restart");
    assert_eq!(primary.text("SHOW max_connections").await, "40");
    assert!(change(&[]).await.expect("reconfigured").pending_restart.is_empty());

    let refused = change(&[("work_mem", "plenty")]).await;
    assert!(matches!(&refused, Err(Error::Configuration(why)) if why.contains("work_mem")), "{refused:?}");
});

as_postgres!(unknown_parameters_are_left_out, async |lab| {
    let node = lab.node("node");
    node.server.initdb().await.expect("initdb");
    let mut settings = (*node.server.settings()).clone();
    // One that went, one for developers that is in no list, one of an extension.
    for (name, value) in [("wal_keep_segments", "8"), ("zero_damaged_pages", "on"), ("my.extension", "1")] {
        settings.parameters.insert(name.to_owned(), value.to_owned());
    }
    node.server.update(settings);
    let started = node.start(Role::Primary).await;
    assert_eq!(started.unknown_parameters, ["wal_keep_segments"]);
    assert_eq!(node.text("SHOW zero_damaged_pages").await, "on");
    assert_eq!(node.text("SHOW my.extension").await, "1");
});

as_postgres!(a_standby_starts_with_less_than_its_primary_has, async |lab| {
    let primary = lab.primary("primary").await;
    let standby = lab.standby("standby", &primary).await;
    let mut settings = (*standby.server.settings()).clone();
    settings.parameters.insert("max_connections".to_owned(), "25".to_owned());
    let role = Role::Standby { upstream: Some(primary.upstream(None)) };
    standby.server.update(settings.clone());
    standby.server.restart(&role, super::support::PATIENCE).await.expect("a restart");
    assert_eq!(standby.text("SHOW max_connections").await, "30");
    let reconfigured = standby.server.reconfigure(settings).await.expect("reconfigured");
    assert_eq!(reconfigured.pending_restart["max_connections"].new, "25");
});

as_postgres!(synchronous_names_come_and_go_and_survive_a_change_of_settings, async |lab| {
    let primary = lab.primary("primary").await;
    let server = &primary.server;
    assert!(server.set_synchronous_standby_names(Some("ANY 1 (\"a b\",c)")).await.expect("set"));
    assert!(!server.set_synchronous_standby_names(Some("ANY 1 (\"a b\",c)")).await.expect("set"));
    let mut settings = (*server.settings()).clone();
    settings.parameters.insert("work_mem".to_owned(), "6MB".to_owned());
    server.reconfigure(settings).await.expect("reconfigured");
    assert_eq!(primary.session().await.synchronous_standby_names, "ANY 1 (\"a b\",c)");
    assert!(server.set_synchronous_standby_names(Some("")).await.expect("set"));
    assert_eq!(primary.session().await.synchronous_standby_names, "");
});

as_postgres!(data_whose_configuration_lives_apart_is_adopted, async |lab| {
    let node = lab.node("node");
    node.server.initdb().await.expect("initdb");
    let (data, apart) = (node.data_dir(), node.folder.join("etc"));
    std::fs::create_dir_all(apart.join("conf.d")).expect("a folder");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        std::fs::rename(data.join(name), apart.join(name)).expect("a move");
    }
    let path = apart.join("postgresql.conf");
    let mut conf = std::fs::read_to_string(&path).expect("a configuration");
    conf += &format!("data_directory = '{}'\nhba_file = '/none'\ninclude_dir = 'conf.d'\n", data.display());
    conf += "work_mem = 7MB\nport = 1\n";
    std::fs::write(&path, conf).expect("a configuration");
    let options = format!(
        "/usr/bin/postgres \"-D\" \"{}\" \"-c\" \"config_file={}\"\n",
        data.display(),
        apart.join("postgresql.conf").display()
    );
    std::fs::write(data.join("postmaster.opts"), options).expect("options");
    node.start(Role::Primary).await;
    assert_eq!(node.text("SHOW work_mem").await, "7MB");
    assert_eq!(node.text("SHOW hba_file").await, data.join("pg_hba.conf").to_string_lossy());
    assert_eq!(node.text("SHOW port").await, node.server.settings().port.to_string());
});

as_postgres!(without_a_line_for_the_socket_the_agent_comes_by_tcp, async |lab| {
    let node = lab.node("node");
    let mut settings = (*node.server.settings()).clone();
    settings.hba = ["host replication", "host all"].map(|line| format!("{line} all 127.0.0.1/32 md5")).into();
    node.server.update(settings);
    node.server.initdb().await.expect("initdb");
    node.start(Role::Primary).await;
    for _ in 0..3 {
        node.session().await;
        node.server.checkpoint().await.expect("a checkpoint");
    }
    assert_eq!(node.log().matches("no pg_hba.conf entry").count(), 1, "{}", node.log());
});
