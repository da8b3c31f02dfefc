//! The examples of `migrations/postgres/README.md`, run as printed.

use std::process::Command;

use receiptd::receipt::State;
use receiptd::store::Role;
use receiptd::store::postgres::PostgresStore;

use super::super::{add_placed, at, claim, commit, settled, show, walk};
use crate::store::cluster::Cluster;

fn examples(language: &str) -> Vec<&'static str> {
    let text = include_str!("../../../../migrations/postgres/README.md");
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix(&format!("{language}\n")))
        .collect()
}

#[tokio::test]
async fn the_examples_work_as_printed() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let name = cluster.database().await;
    let url = cluster.url(&name);
    let store = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
        .await
        .unwrap();
    let statements = examples("sql");
    assert_eq!(statements.len(), 2);
    for statement in statements {
        let output = cluster
            .command("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .arg(&url)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(show(&store, "Kna29Ax0Q=").await.0.state, State::Cancelled);
    add_placed(&store, &[("Kna29By1R=", "x", at(5))]).await;
    let claimed = claim(&store, "Kna29By1R=", at(5)).await;
    commit(&store, &[walk(&claimed, at(6), &["u1", "u2"])], settled).await;
    let scripts = examples("python");
    assert_eq!(scripts.len(), 1);
    for script in scripts {
        let script = script.replace("postgres://receiptd@localhost/receiptd", &url);
        // Debian's driver is for Debian's Python.
        let output = Command::new("/usr/bin/python3")
            .args(["-c", &script])
            .output();
        let Ok(output) = output else {
            println!("not run: there is no /usr/bin/python3 on this machine");
            continue;
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("No module named 'psycopg2'") {
            println!("not run: psycopg2 is not installed on this machine");
            continue;
        }
        assert!(output.status.success(), "{errors}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "u1 has read Kna29By1R=\nu2 has read Kna29By1R=\n");
    }
}
