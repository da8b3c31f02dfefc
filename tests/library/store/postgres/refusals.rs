//! Servers that receiptd cannot work with are refused with a text that says what to do.

use std::io::Write as _;

use receiptd::settings::{PostgresUrl, Secret};
use receiptd::store::postgres::{OpenError, PostgresStore};
use receiptd::store::{Claims as _, Role, Scope};

use super::{available, cluster};
use crate::store::cluster::Cluster;
use crate::store::cluster::proxy::{Fault, Proxy};

async fn refused(url: &str, role: Role) -> OpenError {
    PostgresStore::open(&url.parse().unwrap(), role, &mut |_| ())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_named() {
    if !available() {
        return;
    }
    let database = cluster().database().await;
    let proxy = Proxy::start(cluster().port(), Fault::Unnotified).await;
    proxy.disturb(usize::MAX);
    let error = refused(&proxy.url(&database), Role::Owner).await;
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("pgbouncer"), "{error}");
    proxy.disturb(0);
    let opened = PostgresStore::open(
        &proxy.url(&database).parse().unwrap(),
        Role::Owner,
        &mut |_| (),
    )
    .await;
    drop(opened.unwrap());
    cluster().drop_database(&database);
}

#[tokio::test]
async fn a_standby_and_a_read_only_server_are_named() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let database = cluster.database().await;
    let url = cluster.url(&database);
    drop(
        PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
            .await
            .unwrap(),
    );
    let mut owner = cluster.connect("postgres").await;
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = ");
    for (value, works) in [("on", false), ("off", true)] {
        let statement = sqlx::AssertSqlSafe(format!("{read_only}{value}"));
        sqlx::query(statement).execute(&mut owner).await.unwrap();
        let opened = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ()).await;
        match opened {
            Ok(_) => assert!(works),
            Err(error) => assert!(!works && error.to_string().contains("read-only"), "{error}"),
        }
    }
    drop(owner);
    let signal = cluster.dir().join("data/standby.signal");
    let made = cluster.shell(&format!("touch {}", signal.display()));
    assert!(made, "{}", signal.display());
    cluster.control(&["restart", "-m", "fast"]);
    for role in [Role::Owner, Role::Writer, Role::Reader] {
        let error = refused(&url, role).await;
        assert!(error.to_string().contains("standby"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_or_is_not_ours_is_named() {
    if !available() {
        return;
    }
    let database = cluster().database().await;
    let url = cluster().url(&database);
    let error = refused(&url, Role::Writer).await;
    assert!(matches!(error, OpenError::Outdated(_)), "{error}");
    let error = refused(&cluster().url("nowhere"), Role::Owner).await;
    assert!(
        error.to_string().contains("\"nowhere\" does not exist"),
        "{error}"
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let gone = format!("postgres://receiptd@127.0.0.1:{port}/x");
    let error = refused(&gone, Role::Owner).await;
    assert!(
        matches!(&error, OpenError::Store { error, .. } if error.is_transient()),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    // A database of somebody else, and one of a newer receiptd.
    let mut owner = cluster().connect(&database).await;
    sqlx::raw_sql("CREATE TABLE messages (id INTEGER)")
        .execute(&mut owner)
        .await
        .unwrap();
    let error = refused(&url, Role::Owner).await;
    assert!(matches!(error, OpenError::Migration { .. }), "{error}");
    sqlx::raw_sql("DROP TABLE messages")
        .execute(&mut owner)
        .await
        .unwrap();
    drop(
        PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
            .await
            .unwrap(),
    );
    let newer = "INSERT INTO receiptd_migrations VALUES (999, 'later', now(), true, '', 0)";
    sqlx::raw_sql(newer).execute(&mut owner).await.unwrap();
    for role in [Role::Owner, Role::Writer] {
        let error = refused(&url, role).await;
        assert!(
            matches!(error, OpenError::Newer { found: 999, .. }),
            "{error}"
        );
    }
    cluster().drop_database(&database);
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_name_is_refused() {
    if !available() {
        return;
    }
    let mut owner = cluster().connect("postgres").await;
    let create = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' \
        TEMPLATE template0";
    sqlx::raw_sql(create).execute(&mut owner).await.unwrap();
    let error = refused(&cluster().url("ascii"), Role::Owner).await;
    assert!(error.to_string().contains("SQL_ASCII"), "{error}");
    cluster().drop_database("ascii");
}

/// The file is read at each connection, so that a changed password needs no restart.
#[tokio::test]
async fn a_password_comes_from_its_file() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let database = cluster.database().await;
    let mut owner = cluster.connect("postgres").await;
    let role = "SET password_encryption = 'scram-sha-256'; CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'open sesame'";
    sqlx::raw_sql(role).execute(&mut owner).await.unwrap();
    let hba = cluster.dir().join("data/pg_hba.conf");
    let rule = "host all guarded 127.0.0.1/32 scram-sha-256";
    let hba = hba.display();
    assert!(cluster.shell(&format!(
        "{{ echo '{rule}'; cat {hba}; }} >{hba}.new && mv {hba}.new {hba}"
    )));
    cluster.control(&["reload"]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let url = format!("postgres://guarded@127.0.0.1:{}/{database}", cluster.port());
    let mut url: PostgresUrl = url.parse().unwrap();
    url.password = Some(Secret::File {
        path: file.path().to_owned(),
        from_credentials: false,
    });
    let open = async || PostgresStore::open(&url, Role::Owner, &mut |_| ()).await;
    let error = open().await.unwrap_err();
    assert!(matches!(error, OpenError::Password(_)), "{error}");
    writeln!(file, "open sesame").unwrap();
    // The server takes its new rules a moment later.
    let store = open().await.unwrap();
    drop(store);
    file.as_file_mut().set_len(0).unwrap();
    std::fs::write(file.path(), "wrong word").unwrap();
    let error = open().await.unwrap_err();
    assert!(
        error.to_string().contains("password authentication failed"),
        "{error}"
    );
    assert!(!format!("{error} {error:?}").contains("wrong word"));
}

/// With `verify-full` only a server with a certificate of a known authority, for the name that was asked for, will do.
#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let database = cluster.database().await;
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let of_server = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = of_server.signed_by(&key, &issuer).unwrap();
    let data = cluster.dir().join("data");
    let data = data.display();
    for (file, text) in [
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        assert!(cluster.shell(&format!("umask 077; printf '%s' '{text}' >{data}/{file}")));
    }
    assert!(cluster.shell(&format!("echo 'ssl = on' >>{data}/postgresql.conf")));
    cluster.control(&["restart", "-m", "fast"]);
    let mut roots = tempfile::NamedTempFile::new().unwrap();
    roots.write_all(authority.pem().as_bytes()).unwrap();
    let roots = roots.path().display();
    let port = cluster.port();
    let url = |host: &str, options: &str| {
        format!("postgres://receiptd@{host}:{port}/{database}?{options}")
    };
    let full = format!("sslmode=verify-full&sslrootcert={roots}");
    let store = PostgresStore::open(
        &url("localhost", &full).parse().unwrap(),
        Role::Owner,
        &mut |_| (),
    )
    .await
    .unwrap();
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap(), []);
    let mut owner = cluster.connect(&database).await;
    let (encrypted,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE ssl AND application_name LIKE 'receiptd/%'",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert!(encrypted > 0);
    drop(store);
    for (host, options) in [
        // Another authority than those that this system knows.
        ("localhost", "sslmode=verify-full".to_owned()),
        // Another name than the certificate's.
        ("127.0.0.1", full),
    ] {
        let error = refused(&url(host, &options), Role::Reader).await;
        assert!(matches!(error, OpenError::Store { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // What checks nothing is let through, and warned of where it leaves the machine.
    let url = url("127.0.0.1", "sslmode=require").parse().unwrap();
    drop(
        PostgresStore::open(&url, Role::Reader, &mut |_| ())
            .await
            .unwrap(),
    );
}
