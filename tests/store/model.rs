//! A store in memory, as plain as can be: what the trait means, without a database's cleverness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use receiptd::receipt::{
    Claim, ErrorCode, LaneId, Message, MessageId, MessageKey, Outcome, State, UnixMs, Upcoming,
};
use receiptd::store::{
    CallCount, Found, HabitsRow, LaneDue, LaneTotals, NewMessage, Owed, PruneBatch, Pruned, Reader,
    Result, Selection, Store, WriteAheadLog, Writes,
};
use tokio::sync::watch;

use super::Backend;

#[derive(Clone)]
struct Row {
    message: Message,
    /// When it was inserted, in the order of inserts.
    inserted_at: UnixMs,
    /// The feeder's own schedule, as it was at the admission.
    not_before: Option<UnixMs>,
    /// A feeder made it unreadable.
    spoiled: bool,
}

#[derive(Default)]
struct Tables {
    last_id: i64,
    rows: BTreeMap<MessageId, Row>,
    /// In the order recorded.
    readers: Vec<(MessageKey, Reader)>,
    tickets: BTreeMap<String, String>,
    calls: BTreeMap<(LaneId, String), CallCount>,
    habits: BTreeMap<LaneId, String>,
}

/// See the module.
pub(crate) struct ModelStore {
    tables: Mutex<Tables>,
    version: watch::Sender<u64>,
    seen: tokio::sync::Mutex<watch::Receiver<u64>>,
}

impl Default for ModelStore {
    fn default() -> Self {
        let (version, mut seen) = watch::channel(0);
        // As with a database: the first wait returns at once.
        seen.mark_changed();
        Self {
            tables: Mutex::default(),
            version,
            seen: tokio::sync::Mutex::new(seen),
        }
    }
}

fn wall_clock() -> UnixMs {
    #[allow(
        clippy::disallowed_methods,
        reason = "stands for the database's own clock"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMs(i64::try_from(since.as_millis()).unwrap())
}

impl Tables {
    /// Pending rows in the order of their ids; those that are no message are set aside on the way.
    fn claimable(
        &mut self,
        now: UnixMs,
        in_flight: &[MessageId],
        wanted: impl Fn(&Message) -> bool,
    ) -> Vec<Message> {
        let mut found = Vec::new();
        for (id, row) in &mut self.rows {
            let message = &mut row.message;
            if message.state != State::Pending || in_flight.contains(id) || !wanted(message) {
                continue;
            }
            if row.spoiled {
                set_aside(message, now);
            } else {
                found.push(message.clone());
            }
        }
        found
    }

    fn of_key(&mut self, key: &str) -> &mut Row {
        let row = self.rows.values_mut();
        row.into_iter()
            .find(|row| row.message.key.as_str() == key)
            .unwrap()
    }

    fn has_key(&self, key: &MessageKey) -> bool {
        self.rows.values().any(|row| row.message.key == *key)
    }

    fn prunable(&self, before: UnixMs, state: Option<State>) -> Vec<MessageId> {
        let old = self.rows.values().map(|row| &row.message).filter(|row| {
            row.state.is_final()
                && row.finished_at.is_some_and(|at| at < before)
                && state.is_none_or(|state| state == row.state)
        });
        old.map(|row| row.id).collect()
    }

    fn count(&mut self, more: CallCount) {
        let key = (more.lane.clone(), more.month.clone());
        let Some(sum) = self.calls.get_mut(&key) else {
            self.calls.insert(key, more);
            return;
        };
        sum.calls += more.calls;
        sum.throttled += more.throttled;
        sum.messages += more.messages;
        sum.first_at = sum.first_at.into_iter().chain(more.first_at).min();
    }

    /// Readers recorded for a key, be it for an earlier message of that key.
    fn recorded(&self, key: &MessageKey) -> u32 {
        let readers = self.readers.iter().filter(|(of, _)| of == key);
        u32::try_from(readers.count()).unwrap()
    }

    /// Removes readers without a message; how many.
    fn drop_orphans(&mut self) -> u64 {
        let before = self.readers.len();
        let readers = std::mem::take(&mut self.readers);
        self.readers = readers
            .into_iter()
            .filter(|(key, _)| self.has_key(key))
            .collect();
        (before - self.readers.len()) as u64
    }
}

fn set_aside(message: &mut Message, now: UnixMs) {
    message.state = State::Failed;
    message.last_error = Some(ErrorCode::from("row.invalid: chat"));
    message.last_error_at = Some(now);
    message.finished_at = Some(now);
}

impl ModelStore {
    fn write<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let answer = change(&mut self.tables.lock().unwrap());
        self.version.send_modify(|version| *version += 1);
        answer
    }
}

impl Store for ModelStore {
    async fn lanes(&self, in_flight: &[MessageId]) -> Result<Vec<LaneDue>> {
        let tables = self.tables.lock().unwrap();
        let mut lanes: BTreeMap<LaneId, UnixMs> = BTreeMap::new();
        for row in tables.rows.values().map(|row| &row.message) {
            let admitted = row.state == State::Pending && row.admitted_at.is_some();
            if let (true, Some(due)) = (admitted && !in_flight.contains(&row.id), row.next_poll_at)
            {
                let first = lanes.entry(row.lane.clone()).or_insert(due);
                *first = due.min(*first);
            }
        }
        let due = lanes
            .into_iter()
            .map(|(lane, next_poll_at)| LaneDue { lane, next_poll_at });
        Ok(due.collect())
    }

    async fn new_lanes(&self) -> Result<Vec<LaneId>> {
        let tables = self.tables.lock().unwrap();
        let new = tables.rows.values().map(|row| &row.message);
        let lanes: BTreeSet<LaneId> = new
            .filter(|row| row.state == State::Pending && row.admitted_at.is_none())
            .map(|row| row.lane.clone())
            .collect();
        Ok(lanes.into_iter().collect())
    }

    async fn arrivals(
        &self,
        lane: &LaneId,
        in_flight: &[MessageId],
        limit: usize,
        now: UnixMs,
    ) -> Result<Vec<Message>> {
        let mut new = self.write(|tables| {
            tables.claimable(now, in_flight, |row| {
                row.admitted_at.is_none() && row.lane == *lane
            })
        });
        new.truncate(limit);
        Ok(new)
    }

    async fn admit(&self, rows: &[Message]) -> Result<()> {
        self.write(|tables| {
            for placed in rows {
                let recorded = tables.recorded(&placed.key);
                let Some(row) = tables.rows.get_mut(&placed.id) else {
                    continue;
                };
                let message = &mut row.message;
                if message.state == State::Pending && message.admitted_at.is_none() {
                    row.not_before = message.next_poll_at;
                    message.next_poll_at = placed.next_poll_at;
                    message.last_chance_at = placed.last_chance_at;
                    message.admitted_at = placed.admitted_at;
                    message.reader_count = recorded;
                }
            }
        });
        Ok(())
    }

    async fn due(
        &self,
        lane: &LaneId,
        now: UnixMs,
        last_chances_until: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        let is_last = |row: &Message| {
            row.last_chance_at
                .is_some_and(|at| at <= last_chances_until)
        };
        let mut due = self.write(|tables| {
            let held_back = |row: &Message| {
                let not_before = tables.rows[&row.id].not_before;
                not_before.is_some_and(|at| at > now) || row.next_poll_at > row.last_chance_at
            };
            let due = |row: &Message| row.next_poll_at.is_some_and(|at| at <= now);
            let early = |row: &Message| is_last(row) && !held_back(row);
            let ids: BTreeSet<MessageId> = tables
                .rows
                .values()
                .map(|row| &row.message)
                .filter(|row| row.admitted_at.is_some() && (due(row) || early(row)))
                .map(|row| row.id)
                .collect();
            tables.claimable(now, in_flight, |row| {
                row.lane == *lane && ids.contains(&row.id)
            })
        });
        due.sort_by_key(|row| match row.last_chance_at {
            Some(last_chance) if is_last(row) => (0, Some(last_chance)),
            _ => (1, row.next_poll_at),
        });
        due.truncate(limit);
        Ok(due)
    }

    async fn overaged(
        &self,
        lane: &LaneId,
        lived_from: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        let mut old = self.write(|tables| {
            tables.claimable(lived_from, in_flight, |row| {
                row.lane == *lane && row.admitted_at.is_some() && row.lives_from <= lived_from
            })
        });
        old.sort_by_key(|row| row.next_poll_at);
        old.truncate(limit);
        Ok(old)
    }

    async fn note_lane_error(
        &self,
        lane: &LaneId,
        code: &ErrorCode,
        now: UnixMs,
        limit: usize,
    ) -> Result<u64> {
        Ok(self.write(|tables| {
            let mut noted = 0;
            let rows = tables.rows.values_mut().map(|row| &mut row.message);
            let without = rows.filter(|row| {
                row.lane == *lane
                    && row.state == State::Pending
                    && row.admitted_at.is_some()
                    && row.last_error.as_ref() != Some(code)
            });
            for row in without.take(limit) {
                row.last_error = Some(code.clone());
                row.last_error_at = Some(now);
                noted += 1;
            }
            noted
        }))
    }

    async fn stale(&self, claims: &[Claim]) -> Result<Vec<MessageId>> {
        let tables = self.tables.lock().unwrap();
        let stale = claims.iter().filter(|claim| {
            !tables.rows.get(&claim.id).is_some_and(|row| {
                row.message.state == State::Pending && row.message.next_poll_at == claim.fence
            })
        });
        Ok(stale.map(|claim| claim.id).collect())
    }

    async fn pull_forward(&self, latest: UnixMs, limit: usize) -> Result<u64> {
        Ok(self.write(|tables| {
            let mut pulled = 0;
            for row in tables.rows.values_mut() {
                let to = row.not_before.map_or(latest, |asked| asked.max(latest));
                let message = &mut row.message;
                let ours = message.state == State::Pending && message.admitted_at.is_some();
                if ours && message.next_poll_at > Some(to) && pulled < limit as u64 {
                    message.next_poll_at = Some(to);
                    pulled += 1;
                }
            }
            pulled
        }))
    }

    async fn changed(&self) -> Result<()> {
        let mut seen = self.seen.lock().await;
        seen.changed().await.unwrap();
        Ok(())
    }

    async fn commit<D>(&self, outcomes: &[Outcome], mut decide: D) -> Result<()>
    where
        D: FnMut(&[Found<'_>]) -> Writes + Send,
    {
        self.write(|tables| {
            let mut found = Vec::new();
            for outcome in outcomes {
                let ended_at = outcome.ended_at;
                let row = tables.rows.get_mut(&outcome.claim.id).and_then(|row| {
                    if row.spoiled && row.message.state == State::Pending {
                        set_aside(&mut row.message, ended_at);
                    }
                    let ours = !row.spoiled && row.message.key == outcome.claim.key;
                    ours.then(|| row.message.clone())
                });
                let mut new_readers = Vec::new();
                if let Some(row) = &row {
                    for seen in &outcome.readers {
                        let known = tables
                            .readers
                            .iter()
                            .any(|(key, reader)| *key == row.key && reader.user_id == seen.user_id);
                        if !known {
                            let reader = Reader {
                                user_id: seen.user_id.clone(),
                                seen_after: row.last_complete_at.unwrap_or(row.sent_at),
                                seen_at: seen.seen_at,
                            };
                            tables.readers.push((row.key.clone(), reader));
                            new_readers.push(seen.user_id.clone());
                        }
                    }
                }
                found.push(Found {
                    outcome,
                    row,
                    new_readers,
                });
            }
            let writes = decide(&found);
            for message in writes.messages {
                if let Some(row) = tables.rows.get_mut(&message.id) {
                    let feeders = row.message.clone();
                    row.message = Message {
                        key: feeders.key,
                        lane: feeders.lane,
                        robot_code: feeders.robot_code,
                        conversation: feeders.conversation,
                        chat: feeders.chat,
                        expected_readers: feeders.expected_readers,
                        sent_at: feeders.sent_at,
                        lives_from: feeders.lives_from,
                        ..message
                    };
                }
            }
            for count in writes.calls {
                tables.count(count);
            }
            for habits in writes.habits {
                tables.habits.insert(habits.lane, habits.habits);
            }
        });
        Ok(())
    }

    async fn habits(&self) -> Result<Vec<HabitsRow>> {
        let tables = self.tables.lock().unwrap();
        let rows = tables.habits.iter().map(|(lane, habits)| HabitsRow {
            lane: lane.clone(),
            habits: habits.clone(),
        });
        Ok(rows.collect())
    }

    async fn calls_in(&self, month: &str) -> Result<Vec<CallCount>> {
        let tables = self.tables.lock().unwrap();
        let counts = tables.calls.iter().filter(|((_, of), _)| of == month);
        Ok(counts.map(|(_, count)| count.clone()).collect())
    }

    async fn owed(&self, lane: &LaneId, until: UnixMs) -> Result<Owed> {
        let tables = self.tables.lock().unwrap();
        let rows = tables.rows.values().map(|row| &row.message);
        let of_lane = rows.filter(|row| row.lane == *lane && row.state == State::Pending);
        let mut owed = Owed::default();
        for row in of_lane.filter(|row| row.last_chance_at.is_some()) {
            owed.in_all += 1;
            owed.until += u64::from(row.owes_last_chance(until));
        }
        Ok(owed)
    }

    async fn last_chances(&self, lane: &LaneId, step: Duration) -> Result<Vec<Upcoming>> {
        let tables = self.tables.lock().unwrap();
        let rows = tables.rows.values().map(|row| &row.message);
        let mut due: Vec<UnixMs> = rows
            .filter(|row| row.lane == *lane && !row.state.is_final())
            .filter_map(|row| row.last_chance_at)
            .collect();
        due.sort_unstable();
        let mut parts: Vec<Upcoming> = Vec::new();
        let mut ends_at = UnixMs(0);
        for at in due {
            match parts.last_mut().filter(|_| at < ends_at) {
                Some(part) => {
                    part.until = at;
                    part.count += 1;
                }
                None => {
                    ends_at = at + step;
                    parts.push(Upcoming {
                        until: at,
                        count: 1,
                    });
                }
            }
        }
        Ok(parts)
    }

    async fn count_calls(&self, calls: &[CallCount]) -> Result<()> {
        self.write(|tables| {
            for count in calls {
                tables.count(count.clone());
            }
        });
        Ok(())
    }

    async fn suite_ticket(&self, suite_key: &str) -> Result<Option<String>> {
        Ok(self.tables.lock().unwrap().tickets.get(suite_key).cloned())
    }

    async fn add(&self, messages: &[NewMessage]) -> Result<u64> {
        let inserted_at = wall_clock();
        Ok(self.write(|tables| {
            let mut added = 0;
            for new in messages {
                if tables.has_key(&new.key) {
                    continue;
                }
                added += 1;
                tables.last_id += 1;
                let id = MessageId(tables.last_id);
                let sent_at = new.sent_at.unwrap_or(inserted_at).min(inserted_at);
                let lane = LaneId {
                    account: new.account.clone(),
                    corp: new.corp.clone(),
                };
                let message = Message {
                    robot_code: new.robot_code.clone(),
                    conversation: new.conversation.clone(),
                    chat: new.chat,
                    expected_readers: new.expected_readers,
                    next_poll_at: new.next_poll_at,
                    ..Message::inserted(id, new.key.clone(), lane, sent_at)
                };
                let row = Row {
                    message,
                    inserted_at,
                    not_before: None,
                    spoiled: false,
                };
                tables.rows.insert(id, row);
            }
            added
        }))
    }

    async fn retry(&self, which: &Selection, now: UnixMs, limit: usize) -> Result<u64> {
        Ok(self.write(|tables| {
            let mut retried = 0;
            let mut recorded: BTreeMap<MessageKey, u32> = BTreeMap::new();
            for (key, _) in &tables.readers {
                *recorded.entry(key.clone()).or_default() += 1;
            }
            let rows = tables.rows.values_mut().filter(|row| {
                let message = &row.message;
                let open_again = [State::Failed, State::Expired, State::Cancelled];
                open_again.contains(&message.state)
                    && match which {
                        Selection::Keys(keys) => keys.contains(&message.key),
                        Selection::InState(state, account) => {
                            *state == message.state
                                && account
                                    .as_ref()
                                    .is_none_or(|name| *name == message.lane.account)
                        }
                    }
            });
            for row in rows.take(limit) {
                row.not_before = None;
                let message = &mut row.message;
                message.state = State::Pending;
                message.next_poll_at = Some(now);
                message.lives_from = message.sent_at.max(now);
                message.admitted_at = message.admitted_at.or(Some(now));
                message.finished_at = None;
                message.last_chance_at = None;
                message.blocked = false;
                message.last_error = None;
                message.last_error_at = None;
                message.reader_count = recorded.get(&message.key).copied().unwrap_or(0);
                retried += 1;
            }
            retried
        }))
    }

    async fn prune(
        &self,
        before: UnixMs,
        state: Option<State>,
        limit: usize,
    ) -> Result<PruneBatch> {
        let pruned = self.write(|tables| {
            let mut ids = tables.prunable(before, state);
            ids.truncate(limit);
            for id in &ids {
                tables.rows.remove(id);
            }
            Pruned {
                messages: ids.len() as u64,
                readers: tables.drop_orphans(),
            }
        });
        Ok(PruneBatch {
            pruned,
            work: Duration::ZERO,
        })
    }

    async fn prunable(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let tables = self.tables.lock().unwrap();
        let ids = tables.prunable(before, state);
        let stays = |key: &MessageKey| {
            let mut rows = tables.rows.values().map(|row| &row.message);
            rows.any(|row| row.key == *key && !ids.contains(&row.id))
        };
        let readers = tables.readers.iter().filter(|(key, _)| !stays(key));
        Ok(Pruned {
            messages: ids.len() as u64,
            readers: readers.count() as u64,
        })
    }

    async fn message(&self, key: &MessageKey) -> Result<Option<(Message, Vec<Reader>)>> {
        let tables = self.tables.lock().unwrap();
        let row = tables.rows.values().find(|row| row.message.key == *key);
        let readers = tables.readers.iter().filter(|(of, _)| of == key);
        let readers = readers.map(|(_, reader)| reader.clone()).collect();
        Ok(row.map(|row| (row.message.clone(), readers)))
    }

    async fn totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>> {
        let tables = self.tables.lock().unwrap();
        let mut lanes: BTreeMap<LaneId, LaneTotals> = BTreeMap::new();
        for row in tables.rows.values() {
            let message = &row.message;
            let lane = message.lane.clone();
            let totals = lanes.entry(lane.clone()).or_insert(LaneTotals {
                lane,
                pending: 0,
                due: 0,
                oldest_due: None,
                finished: [0; 5],
            });
            if message.state == State::Pending {
                totals.pending += 1;
                let due = message.next_poll_at.unwrap_or(row.inserted_at);
                if due <= now {
                    totals.due += 1;
                    totals.oldest_due = Some(totals.oldest_due.map_or(due, |old| old.min(due)));
                }
            } else {
                let mut finals = State::ALL.into_iter().skip(1);
                let place = finals.position(|state| state == message.state).unwrap();
                totals.finished[place] += 1;
            }
        }
        Ok(lanes.into_values().collect())
    }

    async fn checkpoint(&self) -> Result<WriteAheadLog> {
        Ok(WriteAheadLog::default())
    }

    async fn optimize(&self) -> Result<()> {
        Ok(())
    }
}

/// The model, and feeders that reach into it.
#[derive(Default)]
pub(crate) struct ModelBackend {
    store: ModelStore,
}

impl Backend for ModelBackend {
    type Store = ModelStore;

    async fn fresh() -> Self {
        Self::default()
    }

    fn store(&self) -> &ModelStore {
        &self.store
    }

    async fn cancel(&self, key: &str) {
        self.store.write(|tables| {
            let message = &mut tables.of_key(key).message;
            message.state = State::Cancelled;
            message.finished_at = Some(wall_clock());
        });
    }

    async fn delete(&self, key: &str) {
        self.store.write(|tables| {
            let id = tables.of_key(key).message.id;
            tables.rows.remove(&id);
        });
    }

    async fn rename(&self, key: &str, to: &str) {
        self.store.write(|tables| {
            let to = MessageKey::from(to);
            let reader_count = tables.recorded(&to);
            let row = tables.of_key(key);
            let old = &row.message;
            row.message = Message {
                robot_code: old.robot_code.clone(),
                conversation: old.conversation.clone(),
                chat: old.chat,
                expected_readers: old.expected_readers,
                state: old.state,
                finished_at: old.finished_at,
                next_poll_at: match old.admitted_at {
                    None => old.next_poll_at,
                    Some(_) => row.not_before,
                },
                reader_count,
                ..Message::inserted(old.id, to, old.lane.clone(), old.sent_at)
            };
            row.not_before = None;
        });
    }

    async fn reschedule(&self, key: &str, at: UnixMs) {
        self.store
            .write(|tables| tables.of_key(key).message.next_poll_at = Some(at));
    }

    async fn spoil(&self, key: &str) {
        self.store.write(|tables| tables.of_key(key).spoiled = true);
    }

    async fn put_ticket(&self, suite: &str, ticket: &str) {
        self.store.write(|tables| {
            tables.tickets.insert(suite.to_owned(), ticket.to_owned());
        });
    }

    async fn readers(&self) -> Vec<(String, Reader)> {
        let tables = self.store.tables.lock().unwrap();
        let readers = tables.readers.iter();
        readers
            .map(|(key, reader)| (key.to_string(), reader.clone()))
            .collect()
    }

    async fn crash(self) -> Self {
        // Its tables outlive whoever used them.
        self
    }
}
