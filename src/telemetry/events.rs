//! Every line at `info` and above: what the list in `deploy/README.md` says of it. A test holds both, and the code, together.

use self::Level::{Error, Info, Warn};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its message, with `{name}` in the place of each value.
    pub text: &'static str,
    /// How much it matters.
    pub level: Level,
    /// The names of its fields.
    pub fields: &'static [&'static str],
    /// What happened.
    pub meaning: &'static str,
    /// What an operator does about it.
    pub remedy: &'static str,
}

/// The levels that are written by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The ordinary course.
    Info,
    /// It goes on by itself as soon as it can.
    Warn,
    /// Needs a person now.
    Error,
}

impl Level {
    /// Its name, as in the macros of `tracing`.
    pub fn as_str(self) -> &'static str {
        match self {
            Info => "info",
            Warn => "warn",
            Error => "error",
        }
    }
}

impl Event {
    /// Its row in the list.
    pub fn row(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|name| format!("`{name}`")).collect();
        let fields = if fields.is_empty() {
            "-".to_owned()
        } else {
            fields.join(", ")
        };
        let Self {
            text,
            meaning,
            remedy,
            ..
        } = self;
        format!(
            "| `{text}` | {} | {fields} | {meaning} | {remedy} |",
            self.level.as_str()
        )
    }
}

const fn event(
    text: &'static str,
    level: Level,
    fields: &'static [&'static str],
    meaning: &'static str,
    remedy: &'static str,
) -> Event {
    Event {
        text,
        level,
        fields,
        meaning,
        remedy,
    }
}

/// All of them, in the order of the list.
#[rustfmt::skip] // a row a line
pub const EVENTS: &[Event] = &[
    event("receiptd {version} starts, configured by {file}", Info, &["version", "settings.file"], "the first line of a start", "nothing"),
    event("settings that were set: {values}", Info, &["settings.values"], "what differs from the built-in defaults, secrets redacted; the rest at `debug`", "nothing"),
    event("database: bringing the schema to version {version}: {change}", Info, &["schema.version"], "an update changes the tables, before anything is served", "nothing; there is no way back but the copy made before"),
    event("{count} calls are counted that were made before receiptd was killed, and whose results were lost", Info, &["calls.metered"], "a kill cut off calls whose results were not written; the budget counts them", "nothing: their messages are polled again"),
    event("receiptd serves {database}", Info, &["database.path"], "it works from here on", "nothing"),
    event("receiptd stops ({signal}): the calls under way have {grace} to end", Info, &["signal"], "somebody stops it", "nothing"),
    event("receiptd stops at once: a second signal ({signal}); what is under way is polled again", Info, &["signal"], "somebody does not wait", "nothing"),
    event("receiptd has stopped after {uptime}", Info, &["uptime_ms"], "the last line of a clean stop", "nothing"),
    event("the last results could not be committed, since the database is locked or full: they are polled again", Warn, &[], "a stop does not wait for ever; each of those messages costs a call more", "see who holds the database (`fuser -v`), or make room"),
    event("receiptd does not start: {file}: accounts: {problem}", Error, &["settings.file"], "a package was installed and nobody filled the configuration in", "write an `[accounts.default]`, then start it"),
    event("receiptd ends: {error}", Error, &["error"], "it cannot go on: the database is damaged or moved, another daemon serves it, or a bug", "do what the line says; systemd starts it again"),
    event("the {loop} has not turned for {seconds} s: systemd will start receiptd again", Error, &["loop.name"], "a core loop hangs, so the watchdog is not fed any more", "report it, with the log before it"),
    event("a task panicked at {place}: {what}; this is a bug: please report it{again}", Error, &["code.location", "error", "suppressed"], "a bug", "report it"),
    event("message {key}: its walk panicked: {what}{again}", Error, &["message.key", "error", "suppressed"], "a bug; the message keeps its cadence (`last_error` is `receiptd.panic`), the others are not touched", "report it, with the line above"),
    event("{database}: {error}: receiptd waits for it", Warn, &["database.path", "error"], "the database is locked or the disk is full at the start", "see who holds it (`fuser -v`), or make room"),
    event("moving {table}", Info, &[], "`receiptd migrate --from` copies the rows of a table to the other store", "nothing"),
    event("{warning}", Warn, &[], "the way to a PostgreSQL database on another machine can be read or changed by others", "what the line says"),
    event("configuration: {warning}", Warn, &["warning"], "a setting is possible, and unwise", "what the line says"),
    event("configuration: read again, {count} changes", Info, &["changes"], "a reload that took", "nothing"),
    event("configuration: {key} is {new} (was {old})", Info, &["settings.key", "settings.new", "settings.old"], "what a reload changed", "nothing"),
    event("configuration: {key} changes only with a restart", Warn, &["settings.key"], "a reload met a setting that it cannot change", "restart when it suits"),
    event("configuration: the new one is refused, the old one stays: {error}", Error, &["error"], "a reload met a mistake, named with file, line and remedy", "mend it and reload; `receiptd check --offline` says beforehand"),
    event("configuration: log.filter stays as it was: {error}", Warn, &["error"], "the new filter cannot be used", "mend it and reload"),
    event("systemd could not be told: {error}", Warn, &["error"], "the notification socket does not take messages", "look at systemd; receiptd works on, and a watchdog may end it"),
    event("message {key}: {state} with {readers} readers after {calls} calls{comma}{code}", Info, &["message.key", "account", "corp_id", "message.state", "message.readers", "message.calls", "error.code"], "a message is final", "where it is `failed` or `expired`: see the code below"),
    event("message {key}: {new} new readers, {all} in all", Info, &["message.key", "account", "corp_id", "readers.new", "message.readers"], "readers were seen. With the line above at most ten lines a second; the rest is counted in the summary", "nothing"),
    event("summary: {pending} pending, {due} due (the oldest for {lag}), {polls} polls with {calls} calls, {readers} readers seen, {finished} messages finished{remarks}", Info, &["messages.pending", "messages.due", "messages.in_flight", "messages.finished", "lag_ms", "polls", "calls.metered", "calls.throttled", "readers.new", "events.taken", "events.dropped", "pruned.messages", "pruned.readers", "lines_left_out", "wal_bytes", "wal_held_bytes"], "once a `summary_interval`, always: how it stands, and what happened since the last one. It adds throttled calls, pushed reads that were taken over or went, what retention removed, lines left out, and a write-ahead log that is held, where there are any", "a lag that grows: too few calls a second, a blocked account, or a budget"),
    event("account {account}: gets no token: {error}", Warn, &["account", "error"], "asked at start, and at a reload that changed the account: a wrong secret, or no answer", "what the line says"),
    event("account {account}: works again", Info, &["account", "corp_id"], "an answer came, after it was blocked, out of calls or without an answer", "nothing"),
    event("account {account}: throttled ({code}), its calls wait {wait} ms{again}", Warn, &["account", "corp_id", "error.code", "wait_ms", "suppressed"], "called too often; the vendor charges nothing and no message loses anything", "if it lasts: lower the account's `calls_per_second`, or find who else calls with this app"),
    event("account {account}: blocked ({code}): {why}; its messages wait, one call probes now and then{again}", Warn, &["account", "corp_id", "error.code", "error", "suppressed"], "DingTalk refuses every call: credentials, permission, address, ticket", "what the line says; it probes by itself, at least every 5 minutes, and at once after a changed secret or ticket"),
    event("account {account}: the token could not be replaced ({refusal}); calls go on with the old one while it lives{again}", Warn, &["account", "corp_id", "error.code", "error", "suppressed"], "the token endpoint refuses or does not answer; the old token is used until it expires", "what the line says, before that"),
    event("account {account}: many messages in a row could not be asked for, the last with {failure}; one call at a time probes, the others wait{again}", Warn, &["account", "corp_id", "error.code", "error", "suppressed"], "no answer for long: network, proxy, certificates, or DingTalk itself", "`receiptd check`; it goes on by itself"),
    event("account {account}: messages are refused with {failure}; they wait; {remedy}{again}", Warn, &["account", "corp_id", "error.code", "error", "suppressed"], "a refusal that an operator can mend (bot stopped, wrong `robot_code` in the configuration, a code nobody knows); the messages stay pending at their cadence and fail at `max_age`", "what the line says"),
    event("account {account}: the organisation's calls of this month are used up ({code}); one call an hour probes{again}", Warn, &["account", "corp_id", "error.code", "suppressed"], "by DingTalk's own count", "buy calls, or wait for the month to end (UTC+8); set `monthly_calls` so that receiptd leaves some to others"),
    event("account {account}: {code}: {what}; {count} messages wait{again}", Warn, &["account", "corp_id", "error.code", "messages.waiting", "suppressed"], "rows name an account that the configuration lacks (`account.unknown`), a third-party app's rows lack a `corp_id` (`corp_id.missing`), or rows of chat `oto` a `robot_code`, as does their account (`robot_code.missing`)", "add it and reload, or mend the feeder; the rows then run"),
    event("account {account}: what was learned of its readers is not used, and is learned anew: {error}", Warn, &["account", "corp_id", "error"], "the stored habits cannot be read", "nothing; polls are placed less well for some days"),
    event("account {account}: keys were learned to answer for {lifetime}, key_lifetime says {setting}; last chances of chat {chat} go by what was learned", Info, &["account", "corp_id", "chat", "lifetime_ms", "key_lifetime_ms"], "at least 20 keys that had answered expired sooner, or later than was learned before; told again when it moves by a tenth", "nothing; where it stays so, put it into `[cadence] key_lifetime`"),
    event("account {account}: what was learned of its readers does not fit the new [cadence] settings and is learned anew: {error}", Warn, &["account", "corp_id", "error"], "a reload changed ages that the habits are kept by", "nothing; they are learned anew"),
    event("a cadence could not be solved, the old one stays: {error}{again}", Error, &["error", "suppressed"], "a bug", "report it"),
    event("{budget}: 80 % of the {calls} calls of {month} are spent; polls thin out until {end}", Warn, &["budget.name", "budget.calls", "budget.spent"], "once a month", "nothing, or raise `monthly_calls` and reload"),
    event("{budget}: all {calls} calls of {month} are spent; no message is polled until {end}", Warn, &["budget.name", "budget.calls", "budget.spent"], "once a month", "raise `monthly_calls` and reload, or wait"),
    event("{budget}: {count} last chances were dropped, since the month's calls are spent", Warn, &["budget.name", "last_chances.dropped"], "messages end without the poll shortly before their key does: who reads them late stays unknown", "raise `monthly_calls` and reload"),
    event("DingTalk has banned this address: all accounts stop for five minutes; lower [endpoint] calls_per_second, or find who else calls from it{again}", Error, &["error.code", "suppressed"], "over 500 calls a second came from this machine's address", "find who else calls from it; lower `[endpoint] calls_per_second`"),
    event("due messages cannot be read now: {error}; trying again{again}", Warn, &["error", "suppressed"], "the database is locked, or its disk fails", "who holds it: `fuser -v receiptd.db`"),
    event("pushed reads cannot be read now: {error}; trying again{again}", Warn, &["error", "suppressed"], "as above", "as above"),
    event("{count} rows of read_events cannot be read as reads and were set aside: their column refused says why{again}", Warn, &["events.refused", "suppressed"], "a service inserted rows with SQLite's checks off; they are kept for a day, and the others are taken", "mend that service"),
    event("{count} results wait to be written: {error}; nothing is lost{again}", Warn, &["results.waiting", "error", "suppressed"], "as above; polls stop when some hundreds wait", "as above"),
    event("{count} results wait to be written: {error}; make room, nothing is lost meanwhile{again}", Error, &["results.waiting", "error", "suppressed"], "the disk is full; feeders cannot insert either", "make room; it goes on by itself"),
    event("{what} now: {error}; trying again{again}", Warn, &["error", "suppressed"], "a task beside the polls could not be done, as the messages cannot be counted: the database is locked, or its disk fails", "who holds it: `fuser -v receiptd.db`"),
    event("{count} finished messages cannot be removed, since rows of another table refer to them; remove those rows first, or declare their foreign key with ON DELETE CASCADE or SET NULL{again}", Warn, &["messages.held", "suppressed"], "retention leaves what another service's table refers to", "what the line says"),
    event("{warning}{again}", Warn, &["wal_bytes", "wal_held_bytes", "suppressed"], "the write-ahead log has grown and cannot be checkpointed: somebody began to read and never ended, and it grows with every write until that ends", "end that process or its transaction, the line says how to find it; the log is cut back by itself"),
    event("{file} cannot be written, so receiptd status cannot show the daemon's condition: {error}{again}", Warn, &["error", "suppressed"], "the directory is full or not writable", "make room, look at permissions: `receiptd check`"),
    event("the wall clock was set forward by {span}, or the machine slept: no message ends by its age before a poll", Warn, &["step_ms"], "the clock jumped; retention removes nothing for an hour", "look at NTP"),
    event("the wall clock was set back by {span}: polls that lie too far ahead are pulled forward", Warn, &["step_ms"], "the clock jumped", "look at NTP"),
    event("node {name}: not heard of for longer than its lease; its accounts go to others", Warn, &["node.name"], "PostgreSQL: a node died, froze or lost the database; said by the node that noticed", "see why; the others go on without it"),
    event("this node was not heard of for longer than its lease (node.lease): others may have its accounts, it begins anew", Warn, &["groups.lost"], "PostgreSQL: this process was stopped, or did not reach the database, for too long", "if it is not the database: see what froze it"),
    event("the other nodes cannot be told that this one lives: {error}; it calls nobody once they may have its accounts{again}", Warn, &["error", "suppressed"], "PostgreSQL does not answer the connection that keeps this node's leases", "see the database"),
    event("the nodes' settings differ: an account goes by those of the node that has it, and only to nodes that name it; receiptd status shows which node has which{again}", Warn, &["suppressed"], "the nodes that share a database have different accounts, budgets, cadences or leases", "give all of them the same, unless they are just being changed one after the other"),
    event("this machine's clock and the database's are {apart} ms apart: the database's is used{again}", Warn, &["apart_ms", "suppressed"], "PostgreSQL: times are the database's on every node", "look at NTP on both"),
    event("the library {library} repeated a warning {count} times", Warn, &["suppressed", "warning"], "each warning of a library is written once a minute and then counted", "see the line that it repeated"),
    event("repeated {count} times more, and not for a minute now: {warning}", Warn, &["suppressed", "warning"], "the last count of a warning that stopped", "nothing"),
];
