//! Roles and their passwords.

use pgfleet::model::Secret;
use tokio_postgres::NoTls;

as_postgres!(roles_have_just_their_rights_and_are_left_alone_when_right, async |lab| {
    let primary = lab.primary("primary").await;
    assert!(primary.server.bootstrap_roles().await.expect("roles").is_empty());
    let rights = "SELECT string_agg(rolname || ':' || rolsuper || rolreplication || rolcanlogin || rolcreatedb, ' ' ORDER BY rolname)
                  FROM pg_roles WHERE rolname IN ('replicator', 'rewinder')";
    assert_eq!(primary.text(rights).await, "replicator:falsetruetruefalse rewinder:falsefalsetruefalse");

    let connect = async |user: &str, password: &str| {
        let mut config = tokio_postgres::Config::new();
        let port = primary.server.settings().port;
        config.host("127.0.0.1").port(port).user(user).password(password).dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let rewinder = connect("rewinder", "rewinder:'s \\password").await.expect("the rewind role");
    rewinder
        .query("SELECT pg_read_binary_file('PG_VERSION')", &[])
        .await
        .expect("a right of the rewind role");
    assert!(rewinder.query("SELECT pg_read_file('PG_VERSION')", &[]).await.is_err());

    let mut settings = (*primary.server.settings()).clone();
    settings.replication.password = Some(Secret::new("another"));
    primary.server.update(settings);
    assert_eq!(primary.server.bootstrap_roles().await.expect("roles"), ["replicator"]);
    assert!(connect("replicator", "another").await.is_ok());
    assert!(connect("replicator", "replicator:'s \\password").await.is_err());
    assert!(!primary.log().contains("another"), "{}", primary.log());
});

as_postgres!(no_password_is_where_others_can_read_it, async |lab| {
    use std::os::unix::fs::PermissionsExt;
    let primary = lab.primary("primary").await;
    let standby = lab.standby("standby", &primary).await;
    let conf = std::fs::read_to_string(standby.data_dir().join("postgresql.conf")).expect("a configuration");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", standby.pid())).expect("arguments");
    for text in [conf, String::from_utf8_lossy(&arguments).into_owned(), standby.log()] {
        assert!(!text.contains("password'"), "{text}");
        assert!(!text.contains("'s "), "{text}");
    }
    let mode =
        std::fs::metadata(standby.folder.join("pgpass")).expect("a password file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
});
