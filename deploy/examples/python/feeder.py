#!/usr/bin/env python3
"""Feeds receiptd and follows its answers. Needs Python 3.7 or newer, and psycopg2 where the database is PostgreSQL.

    feeder.py add KEY [EXPECTED_READERS]    one message that the bot sent
    feeder.py follow CURSOR_FILE            prints each new reader, for ever; goes on where it ended
    feeder.py cancel KEY                    asks no more for this message
    feeder.py listen SECRET_FILE            takes over the reads that DingTalk pushes to the app $RECEIPTD_CLIENT_ID, by its
                                            Stream SDK (pip install dingtalk-stream)

The database is $RECEIPTD_DATABASE: a file, or postgres://USER@HOST/DATABASE; /var/lib/receiptd/receiptd.db where that is not set.
"""

import os
import sqlite3
import sys
import time


def connect(database=os.environ.get("RECEIPTD_DATABASE", "/var/lib/receiptd/receiptd.db")):
    # Each statement is its own transaction, and none stays open.
    if database.startswith(("postgres://", "postgresql://")):
        import psycopg2  # Debian: python3-psycopg2

        db = psycopg2.connect(database)
        db.autocommit = True
        return db
    db = sqlite3.connect(database, timeout=5, isolation_level=None)  # timeout: wait for another writer
    db.execute("PRAGMA wal_autocheckpoint = 0")  # receiptd does that
    return db


def execute(db, statement, values):
    cursor = db.cursor()
    cursor.execute(statement if isinstance(db, sqlite3.Connection) else statement.replace("?", "%s"), values)
    return cursor


def add(db, key, **columns):
    """Inserts a message; whether it is a new one. The columns: those of migrations/README.md."""
    row = {"process_query_key": key, **{name: value for name, value in columns.items() if value is not None}}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    statement = f"INSERT INTO messages ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    return execute(db, statement, list(row.values())).rowcount == 1


def add_sent(db, answer, **columns):
    """Inserts what a send of the official SDK (pip install alibabacloud_dingtalk) was answered.

    `robot_1_0`'s private_chat_send: chat="private" and expected_readers=1; its org_group_send: chat="group"; its
    batch_send_oto: chat="oto" and robot_code, where the account has none.
    """
    return add(db, answer.body.process_query_key, sent_at=int(time.time() * 1000), **columns)


def cancel(db, key):
    """Whether the message was still asked for."""
    statement = "UPDATE messages SET state = 'cancelled' WHERE process_query_key = ? AND state = 'pending'"
    return execute(db, statement, (key,)).rowcount == 1


def new_readers(db, cursor, limit=500):
    """Readers beyond the cursor, in order. Fetched whole: a half-read result would keep a transaction open."""
    statement = "SELECT id, process_query_key, user_id FROM readers WHERE id > ? ORDER BY id LIMIT ?"
    return execute(db, statement, (cursor, limit)).fetchall()


def add_read(db, event):
    """Inserts a read that DingTalk pushed: the body of the event `robot_msg_read`, by Stream or by HTTP callback.

    As often as it comes, and before its message or after it: a reader is recorded once.
    """
    statement = "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES (?, ?, ?)"
    execute(db, statement, (event["processQueryKey"], event["userId"], int(event["operatTime"])))


def listen(db, client_id, client_secret):
    """Takes over what DingTalk pushes, for ever. What cannot be inserted is not acknowledged, and comes again."""
    import dingtalk_stream

    class Reads(dingtalk_stream.EventHandler):
        async def process(self, event):
            if event.headers.event_type == "robot_msg_read":
                add_read(db, event.data)
            return dingtalk_stream.AckMessage.STATUS_OK, "OK"

    client = dingtalk_stream.DingTalkStreamClient(dingtalk_stream.Credential(client_id, client_secret))
    client.register_all_event_handler(Reads())
    client.start_forever()


def follow(db, cursor_file):
    # The cursor is best kept where your own results are, in one transaction with them. A file does for a program
    # that may do its work twice after a crash.
    try:
        with open(cursor_file) as file:
            cursor = int(file.read())
    except FileNotFoundError:
        cursor = 0
    while True:
        batch = new_readers(db, cursor)
        for cursor, key, user in batch:
            print(f"{user} has read {key}", flush=True)
        if not batch:
            time.sleep(1)
            continue
        with open(cursor_file + ".new", "w") as file:
            file.write(str(cursor))
        os.replace(cursor_file + ".new", cursor_file)


def main(arguments):
    if len(arguments) in (2, 3) and arguments[0] == "add":
        expected = int(arguments[2]) if len(arguments) == 3 else None
        print("added" if add(connect(), arguments[1], expected_readers=expected) else "known")
    elif len(arguments) == 2 and arguments[0] == "cancel":
        print("cancelled" if cancel(connect(), arguments[1]) else "not pending")
    elif len(arguments) == 2 and arguments[0] == "follow":
        follow(connect(), arguments[1])
    elif len(arguments) == 2 and arguments[0] == "listen":
        with open(arguments[1]) as secret:
            listen(connect(), os.environ["RECEIPTD_CLIENT_ID"], secret.read().strip())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        pass
