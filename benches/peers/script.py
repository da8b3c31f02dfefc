#!/usr/bin/env python3
"""receiptd's job as a script: asyncio, aiohttp and sqlite3.

`script.py DATABASE BASE CA COUNT`. It speaks as every contender of the bench does: `ready`, waits for a line, works,
`done`, and ends with its input. What is due is read by the hundred and what was seen is written in one transaction a
batch, as sqlite3's documentation advises; the calls go through one session, 64 at a time, as aiohttp's does.
"""

import asyncio
import json
import sqlite3
import ssl
import sys
import time

import aiohttp

CONCURRENCY = 64
BATCH = 256

SCHEMA = """
CREATE TABLE messages (
    process_query_key TEXT PRIMARY KEY,
    state TEXT NOT NULL DEFAULT 'pending',
    send_status TEXT,
    next_poll_at REAL NOT NULL,
    last_polled_at REAL,
    call_count INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX due ON messages (next_poll_at) WHERE state = 'pending';
CREATE TABLE readers (
    id INTEGER PRIMARY KEY,
    process_query_key TEXT NOT NULL,
    user_id TEXT NOT NULL,
    seen_at REAL NOT NULL,
    UNIQUE (process_query_key, user_id)
);
"""


def open_database(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA busy_timeout = 30000")
    return database


def due(database):
    rows = database.execute(
        "SELECT process_query_key FROM messages WHERE state = 'pending' AND next_poll_at <= ?"
        " ORDER BY next_poll_at LIMIT ?",
        (time.time(), BATCH),
    )
    return [key for (key,) in rows]


def record(database, seen):
    now = time.time()
    database.execute("BEGIN IMMEDIATE")
    database.executemany(
        "INSERT INTO readers (process_query_key, user_id, seen_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(key, user, now) for key, answer in seen for user in answer["readUserIds"]],
    )
    database.executemany(
        "UPDATE messages SET state = 'complete', send_status = ?, last_polled_at = ?, call_count = call_count + 1"
        " WHERE process_query_key = ?",
        [(answer["sendStatus"], now, key) for key, answer in seen],
    )
    database.execute("COMMIT")


async def ask(session, url, key):
    query = {"robotCode": "bench", "processQueryKey": key, "maxResults": 200}
    async with session.post(url, json=query, allow_redirects=False) as response:
        response.raise_for_status()
        return key, json.loads(await response.read())


async def work(database, base, authority):
    url = base + "/v1.0/robot/privateChatMessages/query"
    trusted = ssl.create_default_context(cafile=authority)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONCURRENCY, ssl=trusted),
        headers={"x-acs-dingtalk-access-token": "c0ffee"},
        timeout=aiohttp.ClientTimeout(total=10, connect=5),
    ) as session:
        while keys := due(database):
            record(database, await asyncio.gather(*(ask(session, url, key) for key in keys)))


def main():
    path, base, authority, count = sys.argv[1:]
    database = open_database(path)
    database.executescript(SCHEMA)
    database.execute("BEGIN")
    database.executemany(
        "INSERT INTO messages (process_query_key, next_poll_at) VALUES (?, 0)",
        ((f"key-{number:08}",) for number in range(int(count))),
    )
    database.execute("COMMIT")
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(work(database, base, authority))
    print("done", flush=True)
    sys.stdin.readline()


main()
