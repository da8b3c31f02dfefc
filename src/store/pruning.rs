//! Removes what is finished step by step, so that feeders and results get at the write lock in between.

use std::time::{Duration, Instant};

use super::{Pruned, Result, Store};
use crate::receipt::{State, UnixMs};

/// How long a step should hold the lock, but for its COMMIT: about as long as a commit of results.
const AIM: Duration = Duration::from_millis(20);
/// Messages a step, at least and at most.
const FEWEST: usize = 4;
/// See [`FEWEST`].
const MOST: usize = 512;

/// Finds out how many messages a step may take: how long a row takes depends on the disk, on where its index entries
/// lie, and on who else is at work. Waiting tells nothing of it: steps that shrank because a slow disk or a feeder kept them
/// waiting would take a turn, and a flush of the disk, for four messages each.
#[derive(Debug)]
pub struct Pruning {
    messages: usize,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it removed; nothing: all is done.
    pub pruned: Pruned,
    /// How long to wait before the next one: as long as this one took, with its wait for the lock and its COMMIT. So the
    /// longer results have to wait, the more of the time is left to them.
    pub pause: Duration,
}

impl Default for Pruning {
    fn default() -> Self {
        Self { messages: 32 }
    }
}

impl Pruning {
    /// One step of [`Store::prune`].
    ///
    /// # Errors
    /// The store's. Nothing was removed then.
    pub async fn step<S: Store>(
        &mut self,
        store: &S,
        before: UnixMs,
        state: Option<State>,
    ) -> Result<Step> {
        let began = Instant::now();
        let batch = store.prune(before, state, self.messages).await?;
        self.learn(batch.work);
        Ok(Step {
            pruned: batch.pruned,
            pause: began.elapsed(),
        })
    }

    fn learn(&mut self, work: Duration) {
        if work > AIM {
            self.messages = (self.messages / 2).max(FEWEST);
        } else if work < AIM / 2 {
            self.messages = (self.messages * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_grows_while_it_is_quick_and_shrinks_when_it_holds_others_up() {
        let mut pruning = Pruning::default();
        let ms = Duration::from_millis;
        // (its work took, the next step's messages)
        let story = [
            (ms(1), 64),
            (ms(1), 128),
            (ms(15), 128),
            (ms(21), 64),
            (ms(400), 32),
        ];
        for (work, messages) in story {
            pruning.learn(work);
            assert_eq!(pruning.messages, messages, "after {work:?}");
        }
        for _ in 0..20 {
            pruning.learn(ms(1));
        }
        assert_eq!(pruning.messages, MOST);
        for _ in 0..20 {
            pruning.learn(ms(900));
        }
        assert_eq!(pruning.messages, FEWEST);
    }
}
