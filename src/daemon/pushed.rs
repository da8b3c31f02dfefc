//! Reads that DingTalk pushed to another service, which inserted them into `read_events`: they become readers as if a poll had
//! seen them, in the reconciler's own transaction.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::lanes::Lanes;
use super::reconciler::{RETRY_DELAY, Reconciler, Settled};
use super::upkeep::Counts;
use super::{DaemonError, Shared};
use crate::receipt::{
    EventId, LaneId, Message, MessageId, MessageKey, Outcome, SeenReader, State, UnixMs, WalkEnd,
};
use crate::store::{EventWrites, Found, ReadEvent, Result};
use crate::telemetry::LineBudget;

/// Events of one transaction at most.
const BATCH: usize = 2_000;
/// They are looked for this often in a file, of which every commit is noticed besides.
const INTERVAL_IN_A_FILE: Duration = Duration::from_secs(5);
/// The same on a server, which tells nobody of them: that would hold up whoever inserts thousands a second.
const INTERVAL_ON_A_SERVER: Duration = Duration::from_secs(1);
/// From one look to the next at least: what comes together is taken together.
const GATHERING: Duration = Duration::from_millis(50);

/// When events are looked for.
pub(super) struct Looks {
    pub(super) next: Instant,
    last: Instant,
}

impl Looks {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            next: now,
            last: now,
        }
    }

    /// Another process may have inserted some.
    pub(super) fn soon(&mut self) {
        self.next = self.next.min(self.last + GATHERING);
    }
}

/// Events that are taken over together.
#[derive(Default)]
pub(super) struct Pushed {
    /// One for each message.
    pub(super) outcomes: Vec<Outcome>,
    /// The events of each.
    ids: Vec<Vec<EventId>>,
    /// Events whose message is not known, or not placed yet.
    waiting: Vec<(EventId, UnixMs)>,
}

impl Pushed {
    /// What becomes of the events, now that their rows were found or not: those of a row that is gone, or whose lane was lost
    /// to another node, are looked at anew.
    pub(super) fn writes(&self, found: &[Found]) -> EventWrites {
        let pairs = self.ids.iter().zip(found);
        let taken = pairs.filter(|(_, found)| found.row.is_some() && !found.fenced);
        EventWrites {
            taken: taken.flat_map(|(ids, _)| ids).copied().collect(),
            waiting: self.waiting.clone(),
        }
    }

    /// Sorts events by their message, of which `in_flight` are being asked for. A final row takes its readers, whether it was
    /// ever placed or not; one that is new will be placed soon.
    fn of(events: &[ReadEvent], messages: Vec<Message>, lanes: &Lanes, now: UnixMs) -> Self {
        let in_flight: HashSet<MessageId> = lanes.in_flight().into_iter().collect();
        let messages: HashMap<MessageKey, Message> = messages
            .into_iter()
            .filter(|row| row.admitted_at.is_some() || row.state != State::Pending)
            .map(|row| (row.key.clone(), row))
            .collect();
        let mut pushed = Self::default();
        let mut places: HashMap<MessageId, usize> = HashMap::new();
        for event in events {
            let Some(row) = messages.get(&event.key) else {
                pushed.waiting.push((event.id, now));
                continue;
            };
            let place = *places.entry(row.id).or_insert_with(|| {
                let end = WalkEnd::Pushed {
                    in_flight: in_flight.contains(&row.id),
                };
                let mut claim = row.claim();
                claim.lease = lanes.get(&row.lane).and_then(|lane| lane.lease.clone());
                let outcome = Outcome::without_call(claim, now, end);
                pushed.outcomes.push(outcome);
                pushed.ids.push(Vec::new());
                pushed.outcomes.len() - 1
            });
            pushed.outcomes[place].readers.push(SeenReader {
                user_id: event.user_id.clone(),
                seen_at: now,
                read_at: event.read_at,
            });
            pushed.ids[place].push(event.id);
        }
        pushed
    }
}

impl Reconciler {
    /// Takes some events over; after it, `looks` says when more are looked for.
    pub(super) async fn take_pushed(
        &self,
        looks: &mut Looks,
        lines: &mut LineBudget,
    ) -> std::result::Result<(), DaemonError> {
        let began = Instant::now();
        looks.last = began;
        looks.next = began
            + if self.shared.nodes.is_shared() {
                INTERVAL_ON_A_SERVER
            } else {
                INTERVAL_IN_A_FILE
            };
        let (pushed, more) = match find(&self.shared).await {
            Ok(found) => found,
            Err(error) if error.is_transient() => {
                if let Some(again) = self.shared.warnings.admit("pushed reads cannot be read") {
                    tracing::warn!(
                        error = %error,
                        suppressed = again.count(),
                        "pushed reads cannot be read now: {error}; trying again{again}"
                    );
                }
                looks.next = Instant::now() + RETRY_DELAY;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let taken: usize = pushed.ids.iter().map(Vec::len).sum();
        if taken + pushed.waiting.len() > 0 {
            let settled = self.commit(&pushed.outcomes, Some(&pushed)).await?;
            // No call goes out any more for what is complete, though it was claimed.
            let is_over = |change: &&Settled| change.after.state.is_final();
            let over = settled.iter().filter(is_over).map(|change| change.after.id);
            self.shared.lanes.recall(&over.collect::<Vec<_>>());
            let counts = Counts {
                events_taken: taken as u64,
                ..Counts::default()
            };
            self.committed(&pushed.outcomes, &settled, counts, lines);
        }
        if more {
            // However many come, half of the time is the polls'.
            looks.next = Instant::now() + began.elapsed();
        }
        Ok(())
    }
}

/// The next events that this process may take, and whether there may be more.
async fn find(shared: &std::sync::Arc<Shared>) -> Result<(Pushed, bool)> {
    let mut others: Vec<LaneId> = Vec::new();
    loop {
        let now = shared.clock.now();
        let mut found = shared.store.read_events(&others, BATCH, now).await?;
        if found.refused > 0
            && let Some(again) = shared.warnings.admit("a pushed read is malformed")
        {
            tracing::warn!(
                events.refused = found.refused,
                suppressed = again.count(),
                "{} rows of read_events cannot be read as reads and were set aside: their column refused says why{again}",
                found.refused
            );
        }
        // Their messages' lanes are served for the moment: the schedule and what is learned are theirs.
        let lanes = &shared.lanes;
        let served: HashSet<LaneId> = found
            .messages
            .iter()
            .filter_map(|row| lanes.lane_of(&row.lane).ok())
            .collect();
        let served: Vec<LaneId> = served.into_iter().collect();
        lanes.load(&served, shared).await?;
        let not_ours = found.messages.iter().filter(|row| !is_ours(row, shared));
        let not_ours: HashSet<LaneId> = not_ours.map(|row| row.lane.clone()).collect();
        let before = others.len();
        others.extend(not_ours);
        if others.len() > before {
            let theirs: HashSet<MessageKey> = found
                .messages
                .iter()
                .filter(|row| others.contains(&row.lane))
                .map(|row| row.key.clone())
                .collect();
            found.events.retain(|event| !theirs.contains(&event.key));
            if found.events.is_empty() && found.more {
                continue;
            }
        }
        if !shared.nodes.keeps_house(lanes) {
            // What nobody knows is for one node to set aside.
            let known: HashSet<&MessageKey> = found.messages.iter().map(|row| &row.key).collect();
            let events = found.events.len();
            found.events.retain(|event| known.contains(&event.key));
            found.more &= !found.events.is_empty() || events == 0;
        }
        let pushed = Pushed::of(&found.events, found.messages, lanes, now);
        return Ok((pushed, found.more));
    }
}

/// Whether a message's events are for this process: it serves the lane, or no lane serves it and nobody else names its account.
fn is_ours(row: &Message, shared: &Shared) -> bool {
    let lanes = &shared.lanes;
    match lanes.lane_of(&row.lane) {
        Ok(lane) => lanes.get(&lane).is_some(),
        Err(_) if !shared.nodes.is_shared() || lanes.accounts().contains(&row.lane.account) => true,
        Err(_) => {
            let named = shared.nodes.named(lanes);
            named.is_some_and(|named| !named.contains(&row.lane.account))
        }
    }
}
