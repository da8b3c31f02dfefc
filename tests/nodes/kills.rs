//! `kill -9` of nodes.

use std::time::{Duration, Instant};

use super::books::audit;
use super::town::{ACCOUNTS, LEASE, TAKEN_OVER, Town};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Ten times one of three, under faults: nothing lost, nothing doubled, and its messages are asked for soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_is_followed_by_the_others() {
    let seed = match std::env::var("NODES_SEED").as_deref() {
        Ok("random") => fastrand::u64(..),
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => 1,
    };
    println!("seed {seed}");
    let kills = number("NODES_KILLS", 10);
    let mut luck = fastrand::Rng::with_seed(seed);
    let Some(mut town) = Town::new(3, seed, true).await else {
        return;
    };
    town.start_all();
    town.feed_round(&mut luck).await;
    town.until_all_held().await;
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        town.feed_round(&mut luck).await;
        tokio::time::sleep(Duration::from_millis(luck.u64(0..1500))).await;
        let dead = luck.usize(..town.nodes.len());
        let orphans = town.accounts_of(dead);
        let orphans: Vec<&str> = ACCOUNTS
            .into_iter()
            .filter(|name| orphans.iter().any(|orphan| orphan == name))
            .collect();
        let seq = town.seq();
        let died = (Instant::now(), town.sandbox.now().0);
        town.nodes[dead].kill();
        // Now and then it is back at once, now and then only when the others have its accounts.
        let at_once = luck.bool();
        if at_once {
            town.nodes[dead].start();
        }
        if orphans.is_empty() {
            println!("kill {kill}: node {dead}, which had nothing");
        } else {
            let keys = town
                .feed(&orphans, "readers=2,median=100ms,never=0,expire=10m", 2)
                .await;
            let asked = town.until_asked(&keys, seq).await;
            for (key, at) in asked {
                let after = Duration::from_millis(u64::try_from(at - died.1).unwrap_or(0));
                slowest = slowest.max(after);
                let limit = LEASE + TAKEN_OVER;
                assert!(
                    after < limit,
                    "seed {seed}, kill {kill}: {key} was asked for {after:?} after its node's death\n{}",
                    town.logs()
                );
            }
            println!(
                "kill {kill}: node {dead} with {orphans:?}, all asked for {:?} later",
                died.0.elapsed()
            );
        }
        if !at_once {
            town.nodes[dead].start();
        }
    }
    println!("the slowest was asked for {slowest:?} after its node's death");
    // What was under way, and not committed, at each kill.
    audit(&mut town, seed, kills as u64 * 30, &[]).await;
}
