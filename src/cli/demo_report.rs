//! The demo's results: who read what, and what polling at a fixed interval would have cost.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cadence::{Habits, HabitsError, Rules, read_curve};
use crate::receipt::{Chat, MessageKey, State};
use crate::sandbox::{Sandbox, Truth};
use crate::store::Store;

/// So many messages are shown one by one.
const SHOWN: usize = 10;

/// One message's end.
struct Row {
    key: MessageKey,
    chat: Chat,
    state: State,
    seen: usize,
    recipients: usize,
    knowable: usize,
    calls: u32,
    /// Of each reader seen, seconds from the reading to the poll that saw it.
    delays: Vec<f64>,
    truth: Truth,
}

/// All messages' ends.
pub(super) struct Spent {
    rows: Vec<Row>,
    metered: u64,
    /// Calls a message that the settings ask for.
    target: f64,
}

impl Spent {
    /// Compares what the store holds with what really happened.
    pub(super) async fn gather(
        store: &dyn Store,
        sandbox: &Sandbox,
        keys: &[MessageKey],
        target: f64,
    ) -> anyhow::Result<Self> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let found = store.message(key).await?;
            let (Some((message, readers)), Some(truth)) = (found, sandbox.truth(key.as_str()))
            else {
                continue;
            };
            let delays = readers
                .iter()
                .filter_map(|reader| {
                    let read = truth
                        .readers
                        .iter()
                        .find(|read| read.user_id == reader.user_id.as_str())?;
                    Some(reader.seen_at.since(read.read_at).as_secs_f64())
                })
                .collect();
            rows.push(Row {
                key: key.clone(),
                chat: message.chat,
                state: message.state,
                seen: readers.len(),
                recipients: truth.readers.len() + truth.absent.len(),
                knowable: truth.knowable().count(),
                calls: message.call_count,
                delays,
                truth,
            });
        }
        Ok(Self {
            rows,
            metered: sandbox.counts().metered,
            target,
        })
    }

    fn calls_per_message(&self) -> f64 {
        let messages = u32::try_from(self.rows.len()).unwrap_or(u32::MAX).max(1);
        float(self.metered) / f64::from(messages)
    }

    fn mean_delay(&self) -> Option<f64> {
        mean(self.rows.iter().flat_map(|row| &row.delays))
    }

    /// Calls that a fixed interval of twice the mean delay costs: a timer that asks for all messages alike, so that a read
    /// falls anywhere between two polls and its mean delay is half of the interval. It ends a message as early as it can: at the first poll after the last
    /// recipient has read, else when the key's life ends.
    fn fixed_interval(&self) -> Option<(f64, f64)> {
        let interval = 2.0 * self.mean_delay().filter(|delay| *delay > 0.0)?;
        let calls = self.rows.iter().map(|row| row.fixed_calls(interval)).sum();
        Some((interval, calls))
    }

    pub(super) fn to_json(&self, seed: u64) -> Value {
        let fixed = self.fixed_interval();
        let states: serde_json::Map<String, Value> = State::ALL
            .into_iter()
            .map(|state| (state.to_string(), self.count(state).into()))
            .collect();
        let chats: serde_json::Map<String, Value> = Chat::ALL
            .into_iter()
            .map(|chat| {
                let of_kind = self.rows.iter().filter(|row| row.chat == chat);
                (chat.as_str().to_owned(), of_kind.count().into())
            })
            .collect();
        json!({
            "seed": seed,
            "messages": self.rows.len(),
            "chats": chats,
            "states": states,
            "readers_seen": self.seen(),
            "readers_knowable": self.knowable(),
            "mean_delay_s": self.mean_delay(),
            "calls": self.metered,
            "calls_per_message": self.calls_per_message(),
            "calls_per_message_asked": self.target,
            "fixed_interval_s": fixed.map(|(interval, _)| interval),
            "fixed_interval_calls": fixed.map(|(_, calls)| calls),
        })
    }

    pub(super) fn to_text(&self, curve: &str) -> String {
        // Writing to a String cannot fail, here and below.
        let mut text = format!(
            "\nWho read what (the first {} of {}):\n{:<20} {:<8} {:<10} {:>10} {:>6} {:>12}\n",
            self.rows.len().min(SHOWN),
            self.rows.len(),
            "message",
            "chat",
            "state",
            "read by",
            "calls",
            "mean delay"
        );
        for row in self.rows.iter().take(SHOWN) {
            let delay = mean(row.delays.iter()).map_or_else(|| "-".to_owned(), seconds);
            let _ = writeln!(
                text,
                "{:<20} {:<8} {:<10} {:>10} {:>6} {delay:>12}",
                row.key.to_string(),
                row.chat.as_str(),
                row.state.as_str(),
                format!("{} of {}", row.seen, row.recipients),
                row.calls,
            );
        }
        let ends: Vec<String> = State::ALL
            .into_iter()
            .filter(|state| self.count(*state) > 0)
            .map(|state| format!("{} {state}", self.count(state)))
            .collect();
        let _ = writeln!(
            text,
            "\nMessages: {}. Readers: {} seen of {} that could be known.",
            ends.join(", "),
            self.seen(),
            self.knowable()
        );
        if self.count(State::Expired) > 0 {
            text.push_str(
                "Expired is no failure: somebody never read the message, and its key stopped answering after a day.\n",
            );
        }
        if let Some(delay) = self.mean_delay() {
            let _ = writeln!(
                text,
                "Calls: {}, {:.1} a message, where calls_per_message asks for {}; a read was known after {} on average.",
                self.metered,
                self.calls_per_message(),
                self.target,
                seconds(delay)
            );
        }
        if let Some((interval, calls)) = self.fixed_interval() {
            let _ = writeln!(
                text,
                "Polling every {} knows as soon on average, and takes {calls:.0} calls: {:.1} times as many.",
                seconds(interval),
                calls / float(self.metered).max(1.0)
            );
        }
        let _ = write!(text, "\n{curve}");
        text
    }

    fn count(&self, state: State) -> usize {
        self.rows.iter().filter(|row| row.state == state).count()
    }

    fn seen(&self) -> usize {
        self.rows.iter().map(|row| row.seen).sum()
    }

    fn knowable(&self) -> usize {
        self.rows.iter().map(|row| row.knowable).sum()
    }
}

impl Row {
    fn fixed_calls(&self, interval: f64) -> f64 {
        let truth = &self.truth;
        let everybody = truth.absent.is_empty() && self.knowable == truth.readers.len();
        let last = truth.readers.last().filter(|_| everybody);
        let end = last.map_or(truth.expires_at, |reader| reader.read_at);
        let polls = end.since(truth.sent_at).as_secs_f64() / interval;
        polls.ceil().max(1.0)
    }
}

/// The read curve as the daemon has learned it.
pub(super) async fn curve(store: &dyn Store, rules: &Rules) -> anyhow::Result<String> {
    let stored = store.all_habits().await?;
    let read = stored
        .iter()
        .map(|row| Habits::from_json(&row.habits, rules));
    let read: Vec<Habits> = read
        .collect::<Result<_, HabitsError>>()
        .map_err(|error| anyhow::anyhow!("the habits cannot be read: {error}"))?;
    // Of the kind of chat that more was learned of than of the others.
    let learned = read
        .into_iter()
        .max_by(|one, other| one.reads().0.total_cmp(&other.reads().0));
    let title = match learned {
        Some(_) => "Share of the readers that have read by an age, as learned:",
        None => "Share of the readers that have read by an age, as assumed at first:",
    };
    let habits = learned.unwrap_or_else(|| Habits::prior(rules));
    let plot = read_curve(|age| habits.share_read_by(age, true), rules.key_lifetime);
    Ok(format!("{title}\n{plot}"))
}

fn mean<'a>(values: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

fn seconds(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    match span < Duration::from_secs(1) {
        true => format!("{} ms", span.as_millis()),
        false => format!("{seconds:.1} s"),
    }
}

/// For a ratio that is rounded anyway.
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
