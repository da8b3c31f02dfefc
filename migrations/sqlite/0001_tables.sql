-- The tables of receiptd. What each column means to a feeder or a consumer is told in ../README.md.
--
-- Other processes open this file with whatever SQLite they have: nothing here may be newer than SQLite 3.24.
-- A constraint's name is what a feeder reads when its row is refused, so it says what would be right.
-- Times are Unix milliseconds, UTC. The DEFAULTs count them from the Julian day, which every SQLite knows.

PRAGMA application_id = 1919119476; -- "rcpt"

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again for another row: claims name it

    -- A feeder's columns.
    process_query_key TEXT NOT NULL UNIQUE
        CONSTRAINT process_query_key_is_1_to_512_printable_ascii_characters CHECK (
            typeof(process_query_key) = 'text'
            AND length(process_query_key) BETWEEN 1 AND 512
            AND process_query_key NOT GLOB '*[^!-~]*'
            AND length(process_query_key) = length(CAST(process_query_key AS BLOB))
        ),
    account TEXT NOT NULL DEFAULT 'default'
        CONSTRAINT account_is_text_of_1_to_128_characters CHECK (
            typeof(account) = 'text' AND length(account) BETWEEN 1 AND 128
        ),
    corp_id TEXT
        CONSTRAINT corp_id_is_null_or_text_of_1_to_128_characters CHECK (
            corp_id IS NULL OR (typeof(corp_id) = 'text' AND length(corp_id) BETWEEN 1 AND 128)
        ),
    robot_code TEXT
        CONSTRAINT robot_code_is_null_or_text_of_1_to_256_characters CHECK (
            robot_code IS NULL OR (typeof(robot_code) = 'text' AND length(robot_code) BETWEEN 1 AND 256)
        ),
    open_conversation_id TEXT
        CONSTRAINT open_conversation_id_is_null_or_text_of_1_to_512_characters CHECK (
            open_conversation_id IS NULL
            OR (typeof(open_conversation_id) = 'text' AND length(open_conversation_id) BETWEEN 1 AND 512)
        ),
    chat TEXT NOT NULL DEFAULT 'private'
        CONSTRAINT chat_is_private_or_group CHECK (chat IN ('private', 'group')),
    expected_readers INTEGER
        CONSTRAINT expected_readers_is_null_or_a_whole_number_from_1 CHECK (
            expected_readers IS NULL OR (typeof(expected_readers) = 'integer' AND expected_readers >= 1)
        ),
    sent_at INTEGER NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
        CONSTRAINT sent_at_is_unix_milliseconds CHECK (
            typeof(sent_at) = 'integer' AND sent_at >= 1500000000000
        ),
    next_poll_at INTEGER
        CONSTRAINT next_poll_at_is_null_or_unix_milliseconds CHECK (
            next_poll_at IS NULL OR typeof(next_poll_at) = 'integer'
        ),
    state TEXT NOT NULL DEFAULT 'pending'
        CONSTRAINT state_is_pending_complete_recalled_expired_failed_or_cancelled CHECK (
            state IN ('pending', 'complete', 'recalled', 'expired', 'failed', 'cancelled')
        ),

    -- Results: receiptd writes, everybody may read.
    send_status TEXT,
    reader_count INTEGER NOT NULL DEFAULT 0,
    last_polled_at INTEGER,
    finished_at INTEGER,
    call_count INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    last_error_at INTEGER,

    -- Internal: these may change from version to version.
    inserted_at INTEGER NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    admitted_at INTEGER,      -- when the scheduler placed the row in the cadence
    not_before INTEGER,       -- the feeder's next_poll_at, as it was at the admission
    last_complete_at INTEGER, -- start of the last walk that read every page
    answered_at INTEGER,      -- when the key was first answered
    last_chance_at INTEGER,   -- when the poll shortly before the key's end is due, until it was made
    retried_at INTEGER,       -- the last `receiptd retry`
    blocked INTEGER NOT NULL DEFAULT 0, -- 1: refused in a way that an operator can mend

    CONSTRAINT next_poll_at_of_a_scheduled_message_is_not_null CHECK (
        admitted_at IS NULL OR next_poll_at IS NOT NULL
    )
);

-- Rows that the scheduler has not placed yet, lane by lane: what a feeder's INSERT costs beside the unique key.
CREATE INDEX messages_new ON messages (account, ifnull(corp_id, '')) WHERE admitted_at IS NULL AND state = 'pending';

-- Claims: the due rows of a lane.
CREATE INDEX messages_due ON messages (account, ifnull(corp_id, ''), next_poll_at)
    WHERE state = 'pending' AND admitted_at IS NOT NULL;

-- Claims: last chances, which go first.
CREATE INDEX messages_last_chance ON messages (account, ifnull(corp_id, ''), last_chance_at)
    WHERE state = 'pending' AND last_chance_at IS NOT NULL;

-- Retention, retries, and the counts of `status`.
CREATE INDEX messages_final ON messages (account, ifnull(corp_id, ''), state, finished_at)
    WHERE state <> 'pending';

-- Whoever ends a message (a feeder that cancels it) need not know that `finished_at` goes with it.
CREATE TRIGGER messages_ended AFTER UPDATE OF state ON messages
WHEN NEW.state <> 'pending' AND NEW.finished_at IS NULL
BEGIN
    UPDATE messages
    SET finished_at = CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)
    WHERE id = NEW.id;
END;

CREATE TRIGGER messages_born_ended AFTER INSERT ON messages
WHEN NEW.state <> 'pending' AND NEW.finished_at IS NULL
BEGIN
    UPDATE messages
    SET finished_at = CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)
    WHERE id = NEW.id;
END;

CREATE TABLE readers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- grows in the order of commits: a consumer's cursor
    process_query_key TEXT NOT NULL,
    user_id TEXT NOT NULL,
    seen_after INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    UNIQUE (process_query_key, user_id)
);

-- Keys with readers whose message was deleted, by a feeder or by a prune: the readers stay until the next prune.
CREATE TABLE orphans (process_query_key TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;

CREATE TRIGGER messages_deleted AFTER DELETE ON messages
BEGIN
    INSERT INTO orphans (process_query_key)
    SELECT OLD.process_query_key
    WHERE EXISTS (SELECT 1 FROM readers WHERE process_query_key = OLD.process_query_key)
        AND NOT EXISTS (SELECT 1 FROM orphans WHERE process_query_key = OLD.process_query_key);
END;

-- A row that is given another key is another message: what was learned of the old one says nothing of it, and would end it
-- too early or count readers that are not its own. The old key's readers stay, as a deleted message's do.
CREATE TRIGGER messages_renamed AFTER UPDATE OF process_query_key ON messages
WHEN NEW.process_query_key <> OLD.process_query_key
BEGIN
    INSERT INTO orphans (process_query_key)
    SELECT OLD.process_query_key
    WHERE EXISTS (SELECT 1 FROM readers WHERE process_query_key = OLD.process_query_key)
        AND NOT EXISTS (SELECT 1 FROM orphans WHERE process_query_key = OLD.process_query_key);
    UPDATE messages
    SET next_poll_at = CASE
            WHEN OLD.admitted_at IS NULL OR NEW.next_poll_at IS NOT OLD.next_poll_at THEN NEW.next_poll_at
            ELSE OLD.not_before
        END,
        reader_count = (SELECT count(*) FROM readers WHERE process_query_key = NEW.process_query_key),
        call_count = 0, send_status = NULL, last_polled_at = NULL, last_error = NULL, last_error_at = NULL,
        admitted_at = NULL, not_before = NULL, last_complete_at = NULL, answered_at = NULL, last_chance_at = NULL,
        retried_at = NULL, blocked = 0
    WHERE id = NEW.id;
END;

CREATE TABLE suite_tickets (
    suite_key TEXT NOT NULL PRIMARY KEY
        CONSTRAINT suite_key_is_text CHECK (typeof(suite_key) = 'text' AND length(suite_key) >= 1),
    ticket TEXT NOT NULL
        CONSTRAINT ticket_is_text CHECK (typeof(ticket) = 'text' AND length(ticket) >= 1),
    updated_at INTEGER NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
);

CREATE TABLE api_calls (
    account TEXT NOT NULL,
    corp_id TEXT NOT NULL DEFAULT '',
    month TEXT NOT NULL, -- YYYY-MM, UTC+8
    calls INTEGER NOT NULL DEFAULT 0,
    throttled INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0, -- internal: messages polled for the first time in this month …
    first_at INTEGER, -- internal: … and the first such poll
    PRIMARY KEY (account, corp_id, month)
);

-- Internal: what the cadence learned, JSON that only it reads.
CREATE TABLE habits (
    account TEXT NOT NULL,
    corp_id TEXT NOT NULL DEFAULT '',
    habits TEXT NOT NULL,
    PRIMARY KEY (account, corp_id)
);

-- Internal: which transaction of results was the last, so that one whose COMMIT failed with an unknown outcome is
-- not counted twice.
CREATE TABLE last_commit (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    token TEXT NOT NULL
);
