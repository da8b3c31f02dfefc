-- A row's lane is placed with the row: for a third-party app an account and an organisation, for an internal one the
-- account alone, whatever `corp_id` says. Walks that failed and refusals that are in doubt are counted on the row.

ALTER TABLE messages ADD COLUMN lane_corp TEXT; -- NULL: in no lane; '': the account's only lane
ALTER TABLE messages ADD COLUMN failed_walks INTEGER NOT NULL DEFAULT 0; -- in a row, each to the end of its retries …
ALTER TABLE messages ADD COLUMN failed_calls INTEGER NOT NULL DEFAULT 0; -- … and the calls of those that failed
ALTER TABLE messages ADD COLUMN doubt TEXT; -- the code of a refusal that a second one has to confirm …
ALTER TABLE messages ADD COLUMN doubt_at INTEGER; -- … and when it came

-- Rows that wait for the configuration are in no lane.
UPDATE messages SET lane_corp = ifnull(corp_id, '')
WHERE state = 'pending' AND admitted_at IS NOT NULL
    AND ifnull(last_error, '') NOT IN ('account.unknown', 'corp_id.missing');

-- Claims: the due rows of a lane, those whose last walk failed apart.
DROP INDEX IF EXISTS messages_due;
CREATE INDEX messages_due ON messages (account, lane_corp, failed_walks > 0, next_poll_at)
    WHERE state = 'pending' AND lane_corp IS NOT NULL;

-- Claims: last chances, which go first.
DROP INDEX IF EXISTS messages_last_chance;
CREATE INDEX messages_last_chance ON messages (account, lane_corp, last_chance_at)
    WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL;

-- Rows that no lane serves until the configuration, or the row, is another.
CREATE INDEX messages_waiting ON messages (account)
    WHERE state = 'pending' AND lane_corp IS NULL AND admitted_at IS NOT NULL;

-- Retries, and the counts of `status`.
DROP INDEX IF EXISTS messages_final;
CREATE INDEX messages_final ON messages (account, ifnull(lane_corp, ifnull(corp_id, '')), state)
    WHERE state <> 'pending';

-- Retention.
CREATE INDEX messages_finished ON messages (state, finished_at) WHERE state <> 'pending';

-- As `messages_ended`, for a row that is final at its insert.
DROP TRIGGER IF EXISTS messages_born_ended;
CREATE TRIGGER messages_inserted_final AFTER INSERT ON messages
WHEN NEW.state <> 'pending' AND NEW.finished_at IS NULL
BEGIN
    UPDATE messages
    SET finished_at = CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)
    WHERE id = NEW.id;
END;

-- A row that is given another key is another message: what was learned of the old one says nothing of it, and would end it
-- too early or count readers that are not its own. The old key's readers stay, as a deleted message's do.
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
        doubt = NULL, doubt_at = NULL
    WHERE id = NEW.id;
END;

-- A row whose lane may be another one is placed anew. What else a row lacks matters only while it waits for that.
CREATE TRIGGER messages_moved AFTER UPDATE OF account, corp_id, chat, robot_code ON messages
WHEN NEW.state = 'pending' AND OLD.admitted_at IS NOT NULL AND (
    NEW.account IS NOT OLD.account OR NEW.corp_id IS NOT OLD.corp_id
    OR OLD.lane_corp IS NULL AND (NEW.chat IS NOT OLD.chat OR NEW.robot_code IS NOT OLD.robot_code)
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
