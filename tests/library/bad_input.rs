//! Bytes from whom nobody knows: the fuzz targets' checks, run over their seeds and over random changes of them.
//!
//! What fuzzing found lies in `fuzz/seeds` as well, under a name that says what it was. `PROPTEST_CASES=100000` tries more
//! changes, `PROPTEST_RNG_SEED=...` repeats a run.

#[path = "../../fuzz/checks/lib.rs"]
mod checks;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::random::side_by_side;

/// The committed inputs of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 10, "the seeds of {target} are gone");
    seeds
}

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    Put(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
    Flip(usize, u8),
    Cut(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let words = prop::sample::select(vec![
        &b"\n"[..],
        b"\"",
        b"null",
        b"{",
        b"]",
        b"\\u0000",
        b"\\ud800",
        b"\xff",
        b"\x1b[2J",
        b"=",
        b"i:",
        b"T:99999",
        b"200\n",
        b"400\n",
        b"code",
        b"true",
        b"1e999",
        b"-1",
        b"\xe2\x80\xae",
    ]);
    let place = 0..6000_usize;
    prop_oneof![
        (place.clone(), words).prop_map(|(at, word)| Change::Put(at, word.to_vec())),
        (place.clone(), prop::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(at, bytes)| Change::Put(at, bytes)),
        (place.clone(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (place.clone(), 1..60_usize, 2..20_usize)
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        (place.clone(), any::<u8>()).prop_map(|(at, mask)| Change::Flip(at, mask)),
        place.prop_map(Change::Cut),
    ]
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>) {
        let length = input.len();
        let within = |at: usize| at % (length + 1);
        match self {
            Self::Put(at, bytes) => {
                drop(input.splice(within(*at)..within(*at), bytes.iter().copied()));
            }
            Self::Remove(at, size) => {
                drop(input.drain(within(*at)..length.min(within(*at) + size)));
            }
            Self::Repeat(at, size, times) => {
                let part = input[within(*at)..length.min(within(*at) + size)].repeat(*times);
                input.splice(within(*at)..within(*at), part);
            }
            Self::Flip(at, mask) => {
                if let Some(byte) = input.get_mut(within(*at)) {
                    *byte ^= mask;
                }
            }
            Self::Cut(at) => input.truncate(within(*at)),
        }
    }
}

fn tried(target: &str, check: fn(&[u8]), cases: u32) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed))) {
            println!("fuzz/seeds/{target}/{name}");
            resume_unwind(panic);
        }
    }
    side_by_side(cases, |config| changed(target, &seeds, check, config));
}

fn changed(target: &str, seeds: &[(String, Vec<u8>)], check: fn(&[u8]), config: Config) {
    println!(
        "{target}: {} seeds, {} changed ones, PROPTEST_RNG_SEED={}",
        seeds.len(),
        config.cases,
        config.rng_seed
    );
    let changed = (
        prop::sample::select(seeds.to_vec()),
        prop::collection::vec(change(), 1..12),
    );
    let changed = changed.prop_map(|((_, mut input), changes)| {
        for change in &changes {
            change.apply(&mut input);
        }
        input
    });
    let seed = config.rng_seed;
    let ran = TestRunner::new(config).run(&changed, |input| {
        check(&input);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{target}, PROPTEST_RNG_SEED={seed}: {error}");
    }
}

#[test]
fn any_answer_to_a_query_has_a_meaning() {
    tried("page", checks::answers::page, 2_000);
}

#[test]
fn any_refusal_has_a_disposition_and_only_a_known_word_costs_a_key() {
    tried("refusal", checks::answers::refusal, 2_000);
}

#[test]
fn any_settings_are_taken_or_refused_and_show_no_secret() {
    tried("settings", checks::settings::settings, 1_000);
}

#[test]
fn any_row_leaves_its_neighbours_alone() {
    tried("rows", checks::rows::rows, 300);
}
