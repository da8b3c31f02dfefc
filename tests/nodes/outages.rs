//! The database away, and nodes that do not reach it.

use std::time::Duration;

use super::books::audit;
use super::town::{ACCOUNTS, LEASE, Town};
use super::wire::Wire;

/// Its table locked for longer than a lease, which moves nothing; restarted in both ways, and away for longer than a lease.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_restarted_and_away() {
    let seed = 3;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(3, seed, true).await else {
        return;
    };
    town.start_all();
    town.until_all_held().await;
    town.sql(&format!(
        "BEGIN; LOCK TABLE messages; SELECT pg_sleep({}); COMMIT",
        LEASE.as_secs() + 1
    ));
    for node in &town.nodes {
        assert!(!node.log().contains("not heard of"), "{}", town.logs());
    }
    for mode in ["fast", "immediate", "away"] {
        town.feed_round(&mut luck).await;
        town.until_all_held().await;
        let fed = town.feed_round(&mut luck).await;
        town.until_asked(&fed[..3], 0).await;
        if mode == "away" {
            town.cluster.control(&["stop", "-m", "fast"]);
            // Longer than a lease: nobody knows any more what is whose.
            tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
            let seq = town.seq();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let late: Vec<_> = town.sandbox.calls_after(seq);
            assert!(late.is_empty(), "calls without a lease: {late:#?}");
            town.cluster.control(&["start"]);
        } else {
            town.cluster.control(&["restart", "-m", mode]);
        }
    }
    town.feed_round(&mut luck).await;
    audit(&mut town, seed, 0, &[]).await;
}

/// The server dies under load, and its standby takes its place: all that was committed is there, and all goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_the_server_s_place() {
    let seed = 8;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(3, seed, true).await else {
        return;
    };
    town.cluster.add_standby().await;
    town.start_all();
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    let fed = town.feed_round(&mut luck).await;
    town.until_asked(&fed[..3], 0).await;
    town.cluster.fail_over();
    let promoted = town.sql("SELECT timeline_id > 1 FROM pg_control_checkpoint()");
    assert_eq!(promoted, ["t"], "the old server answers");
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    audit(&mut town, seed, 0, &[]).await;
}

/// It ends every life at once, though each node trusts in its own until it hears of that.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_s_clock_is_set_forward() {
    let seed = 7;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::with_clock(2, seed).await else {
        return;
    };
    town.start_all();
    town.feed_round(&mut luck).await;
    // One that joins later knows of no other clock.
    town.until_true("both have accounts", || {
        (0..2).all(|node| !town.accounts_of(node).is_empty())
    })
    .await;
    town.until_all_held().await;
    town.set_clock_forward(2 * LEASE);
    town.feed_round(&mut luck).await;
    town.until_true("both begin anew", || {
        town.nodes
            .iter()
            .all(|node| node.log().contains("it begins anew"))
    })
    .await;
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    audit(&mut town, seed, 0, &[]).await;
}

/// One node's network stops without a word, then works again; another node comes and dies all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_cut_off_and_another_flaps() {
    let seed = 4;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(2, seed, false).await else {
        return;
    };
    let wire = Wire::start(town.cluster.port()).await;
    town.add(2, wire.port, &ACCOUNTS, "");
    town.start_all();
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    town.until_true("the third has an account", || {
        !town.accounts_of(2).is_empty()
    })
    .await;
    let held = town.accounts_of(2);
    town.feed_round(&mut luck).await;
    wire.cut();
    town.until_true("others have its accounts", || {
        let holders = town.holders();
        holders.len() == ACCOUNTS.len() && holders.values().all(|holder| holder != "n2")
    })
    .await;
    // By now its trust is over, and it can reach the sandbox all the same.
    let seq = town.seq();
    let names: Vec<&str> = held.iter().map(String::as_str).collect();
    let keys = town
        .feed(&names, "readers=2,median=100ms,never=0,expire=10m", 2)
        .await;
    town.until_asked(&keys, seq).await;
    let host = &town.nodes[2].host;
    let late: Vec<_> = town
        .sandbox
        .calls_after(seq)
        .into_iter()
        .filter(|call| call.host == *host)
        .collect();
    assert!(
        late.is_empty(),
        "calls of a node that is cut off: {late:#?}"
    );
    wire.mend();
    town.until_true("it begins anew", || {
        town.nodes[2].log().contains("it begins anew")
    })
    .await;

    // Who comes and goes all the time gets nothing, and moves nothing.
    let port = town.cluster.port();
    town.add(3, port, &ACCOUNTS, "");
    town.feed_round(&mut luck).await;
    let epochs = || town_epochs(&town);
    let before = epochs();
    for _ in 0..4 {
        town.nodes[3].start();
        let name = "SELECT count(*) FROM nodes WHERE name = 'n3' AND expires_at > (extract(epoch FROM now()) * 1000)";
        town.until_true("it is a node", || {
            town.try_sql(name).is_some_and(|rows| rows != ["0"])
        })
        .await;
        town.nodes[3].kill();
    }
    assert_eq!(
        town_epochs(&town),
        before,
        "accounts moved\n{}",
        town.logs()
    );
    audit(&mut town, seed, 10, &[]).await;
}

fn town_epochs(town: &Town) -> Vec<String> {
    town.sql("SELECT name, epoch FROM leases ORDER BY name")
}
