//! Nodes that are stopped for longer than their lease, and continued.

use super::books::{Woken, audit};
use super::town::Town;

/// Each of three in turn; one of them in the midst of a commit, as far as a commit that dawdles is met.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_frozen_finds_its_accounts_gone() {
    let seed = 2;
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(3, seed, false).await else {
        return;
    };
    town.nodes[1].environment = vec![("FAILPOINTS", "store.commit.before=sleep(100)")];
    town.start_all();
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    let mut woken = Vec::new();
    for frozen in 0..town.nodes.len() {
        town.until_true("it has an account", || !town.accounts_of(frozen).is_empty())
            .await;
        town.feed_round(&mut luck).await;
        let seen = town.sandbox.calls_after(0);
        let host = town.nodes[frozen].host.clone();
        town.until_true("it calls", || {
            let calls = town.sandbox.calls_after(0);
            calls[seen.len()..].iter().any(|call| call.host == host)
        })
        .await;
        let held = town.accounts_of(frozen);
        town.nodes[frozen].signal("STOP");
        town.until_true("others have its accounts", || {
            let holders = town.holders();
            let name = format!("n{frozen}");
            holders.len() == super::town::ACCOUNTS.len()
                && holders.values().all(|holder| *holder != name)
        })
        .await;
        let seq = town.seq();
        let names: Vec<&str> = held.iter().map(String::as_str).collect();
        let keys = town
            .feed(&names, "readers=2,median=100ms,never=0,expire=10m", 2)
            .await;
        town.until_asked(&keys, seq).await;
        woken.push(Woken {
            host,
            at: town.sandbox.now().0,
        });
        town.nodes[frozen].signal("CONT");
        let node = &town.nodes[frozen];
        town.until_true("it begins anew", || node.log().contains("it begins anew"))
            .await;
    }
    audit(&mut town, seed, 0, &woken).await;
}
