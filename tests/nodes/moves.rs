//! Nodes that come and go in order, and configurations that differ.

use super::books::audit;
use super::town::{ACCOUNTS, Town};

/// Who stops hands over without anybody waiting for a lease; who comes gets a share; an upgrade restarts one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go() {
    let seed = 5;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(2, seed, false).await else {
        return;
    };
    town.nodes[0].start();
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    town.nodes[1].start();
    town.until_true("the second has a share", || !town.accounts_of(1).is_empty())
        .await;
    for stopped in [0, 1] {
        town.feed_round(&mut luck).await;
        town.nodes[stopped].signal("TERM");
        town.nodes[stopped].ended().await;
        // It gave up what it had before it ended: nobody waits for its leases.
        assert_eq!(town.accounts_of(stopped), Vec::<String>::new());
        town.until_all_held().await;
        town.nodes[stopped].start();
        town.until_true("it has a share again", || {
            !town.accounts_of(stopped).is_empty()
        })
        .await;
    }
    // Both daemons of this machine read their configurations again; one of them no longer names an account that it has.
    let lost = town.accounts_of(0).remove(0);
    town.forget(0, &lost);
    let (code, said) = town.nodes[0].say(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        said.matches("has the new configuration in force").count(),
        2,
        "{said}"
    );
    town.until_true("the other has it", || {
        town.holders().get(&lost).is_some_and(|node| node == "n1")
    })
    .await;
    town.feed_round(&mut luck).await;
    let (code, said) = town.nodes[0].say(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    for word in ["n0", "n1", "a00", "a11"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    audit(&mut town, seed, 0, &[]).await;
}

/// An account goes only to a node that names it, and one that nobody names is marked by one of them; once a node comes that
/// names it, it is served.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_differ() {
    let seed = 6;
    let Some(mut town) = Town::new(1, seed, false).await else {
        return;
    };
    let port = town.cluster.port();
    let (few, unnamed) = (&ACCOUNTS[..8], &ACCOUNTS[8..10]);
    town.add(0, port, few, "");
    town.add(1, port, &few[4..], "");
    town.start_all();
    let rule = "readers=1,median=100ms,never=0,expire=10m";
    town.feed(few, rule, 1).await;
    town.feed(unnamed, rule, 1).await;
    let unknown = "SELECT count(*) FROM messages WHERE last_error = 'account.unknown'";
    town.until_true("what nobody names is marked", || {
        town.try_sql(unknown).is_some_and(|rows| rows == ["2"])
    })
    .await;
    town.until_true("the rest is complete", || {
        let pending = town.try_sql("SELECT count(*) FROM messages WHERE state = 'pending'");
        pending.is_some_and(|rows| rows == ["2"])
    })
    .await;
    for account in &few[..4] {
        assert_eq!(town.holders()[*account], "n0", "the other does not name it");
    }
    let told = town
        .nodes
        .iter()
        .any(|node| node.log().contains("settings differ"));
    assert!(told, "{}", town.logs());
    // Its rows are made new again by whoever keeps house, or by itself.
    town.add(2, port, unnamed, "");
    town.nodes[2].start();
    audit(&mut town, seed, 0, &[]).await;
}
