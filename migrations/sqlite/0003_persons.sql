-- Messages of a bot to persons (`chat = 'oto'`), when somebody read, and reads that DingTalk pushes to another service.

-- The CHECK of `chat` is changed where it stands, in the text of the schema, since nothing in the file depends on it: see
-- "Making Other Kinds Of Table Schema Changes" in SQLite's documentation of ALTER TABLE. A copy of the table would hold the
-- write lock for as long as the table is large, and would lose what feeders hung on it (foreign keys, triggers).
PRAGMA writable_schema = ON;
UPDATE sqlite_master
SET sql = replace(
    sql,
    'CONSTRAINT chat_is_private_or_group CHECK (chat IN (''private'', ''group''))',
    'CONSTRAINT chat_is_private_group_or_oto CHECK (chat IN (''private'', ''group'', ''oto''))'
)
WHERE type = 'table' AND name = 'messages';
PRAGMA writable_schema = RESET;

-- Somebody rewrote the table by hand: it is not known what else differs.
CREATE TEMP TABLE receiptd_migration (
    changed INTEGER CONSTRAINT the_table_messages_is_as_receiptd_made_it CHECK (changed = 1)
);
INSERT INTO temp.receiptd_migration
SELECT count(*) FROM main.sqlite_master
WHERE type = 'table' AND name = 'messages' AND sql LIKE '%CONSTRAINT chat_is_private_group_or_oto CHECK%';
DROP TABLE temp.receiptd_migration;

ALTER TABLE messages ADD COLUMN listed INTEGER; -- internal: recipients that an answer listed, as many as ever

ALTER TABLE readers ADD COLUMN read_at INTEGER; -- when DingTalk says that it was read; NULL where it does not say
ALTER TABLE readers ADD COLUMN from_event INTEGER NOT NULL DEFAULT 0; -- internal: 1: an event told of it, 0: a poll saw it

-- What DingTalk pushed to another service (`robot_msg_read`). Any service inserts; receiptd takes the rows away.
CREATE TABLE read_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    process_query_key TEXT NOT NULL
        CONSTRAINT process_query_key_is_1_to_512_printable_ascii_characters CHECK (
            typeof(process_query_key) = 'text'
            AND length(process_query_key) BETWEEN 1 AND 512
            AND process_query_key NOT GLOB '*[^!-~]*'
            AND length(process_query_key) = length(CAST(process_query_key AS BLOB))
        ),
    user_id TEXT NOT NULL
        CONSTRAINT user_id_is_text_of_1_to_256_characters CHECK (
            typeof(user_id) = 'text' AND length(user_id) BETWEEN 1 AND 256
        ),
    read_at INTEGER
        CONSTRAINT read_at_is_null_or_unix_milliseconds CHECK (
            read_at IS NULL OR (typeof(read_at) = 'integer' AND read_at >= 1500000000000)
        ),
    inserted_at INTEGER NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),

    -- Internal.
    waits_since INTEGER, -- since when it waits for its message, or is set aside; NULL: to be taken
    refused TEXT -- why it is set aside
);

-- To be taken, in the order of their insert.
CREATE INDEX read_events_new ON read_events (id) WHERE waits_since IS NULL;
-- Looked up when a message is placed.
CREATE INDEX read_events_waiting ON read_events (process_query_key) WHERE waits_since IS NOT NULL;
-- Removed after a day.
CREATE INDEX read_events_waited ON read_events (waits_since) WHERE waits_since IS NOT NULL;

-- People read their own messages otherwise than a group's: what was learned is kept for each kind of chat. What was learned
-- of both together is where each begins.
CREATE TABLE habits_by_chat (
    account TEXT NOT NULL,
    corp_id TEXT NOT NULL DEFAULT '',
    chat TEXT NOT NULL,
    habits TEXT NOT NULL,
    PRIMARY KEY (account, corp_id, chat)
);
INSERT INTO habits_by_chat (account, corp_id, chat, habits)
SELECT account, corp_id, chats.chat, habits
FROM habits CROSS JOIN (SELECT 'private' AS chat UNION ALL SELECT 'group') AS chats;
DROP TABLE habits;
ALTER TABLE habits_by_chat RENAME TO habits;

-- As before, and `listed` goes with the old key.
DROP TRIGGER IF EXISTS messages_renamed;
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
            WHEN typeof(OLD.not_before) = 'integer' THEN OLD.not_before
        END,
        reader_count = (SELECT count(*) FROM readers WHERE process_query_key = NEW.process_query_key),
        call_count = 0, send_status = NULL, last_polled_at = NULL, last_error = NULL, last_error_at = NULL,
        admitted_at = NULL, lane_corp = NULL, not_before = NULL, last_complete_at = NULL, answered_at = NULL,
        last_chance_at = NULL, retried_at = NULL, blocked = 0, failed_walks = 0, failed_calls = 0,
        doubt = NULL, doubt_at = NULL, listed = NULL
    WHERE id = NEW.id;
END;

-- As before, and a row whose chat or robot changes may lack its robot, or lack it no longer.
DROP TRIGGER IF EXISTS messages_moved;
CREATE TRIGGER messages_moved AFTER UPDATE OF account, corp_id, chat, robot_code ON messages
WHEN NEW.state = 'pending' AND OLD.admitted_at IS NOT NULL AND (
    NEW.account IS NOT OLD.account OR NEW.corp_id IS NOT OLD.corp_id
    OR (OLD.lane_corp IS NULL OR NEW.chat = 'oto')
        AND (NEW.chat IS NOT OLD.chat OR NEW.robot_code IS NOT OLD.robot_code)
)
BEGIN
    UPDATE messages
    SET next_poll_at = CASE
            WHEN last_polled_at IS NOT NULL OR retried_at IS NOT NULL OR NEW.next_poll_at IS NOT OLD.next_poll_at
                THEN next_poll_at
            WHEN typeof(not_before) = 'integer' THEN not_before
        END,
        last_error = CASE WHEN lane_corp IS NULL THEN NULL ELSE last_error END,
        last_error_at = CASE WHEN lane_corp IS NULL THEN NULL ELSE last_error_at END,
        admitted_at = NULL, lane_corp = NULL
    WHERE id = NEW.id AND admitted_at IS NOT NULL;
END;
