#!/usr/bin/env node
// Feeds receiptd and follows its answers. Node.js 22.13 or newer needs nothing else; older ones: npm install better-sqlite3@12
//
//     feeder.js add KEY [EXPECTED_READERS]    one message that the bot sent
//     feeder.js follow CURSOR_FILE            prints each new reader, for ever; goes on where it ended
//     feeder.js cancel KEY                    asks no more for this message
//
// The database is $RECEIPTD_DATABASE, /var/lib/receiptd/receiptd.db where that is not set.
"use strict";

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");

function connect(path = process.env.RECEIPTD_DATABASE || "/var/lib/receiptd/receiptd.db") {
  let Database;
  try {
    Database = require("node:sqlite").DatabaseSync;
  } catch {
    Database = require("better-sqlite3");
  }
  const db = new Database(path);
  db.exec("PRAGMA busy_timeout = 5000"); // Wait for another writer.
  db.exec("PRAGMA wal_autocheckpoint = 0"); // receiptd does that.
  return db;
}

// Inserts a message; whether it is a new one.
function add(db, key, expectedReaders = null) {
  const statement = db.prepare(
    "INSERT INTO messages (process_query_key, expected_readers) VALUES (?, ?) ON CONFLICT DO NOTHING",
  );
  return Number(statement.run(key, expectedReaders).changes) === 1;
}

// Whether the message was still asked for.
function cancel(db, key) {
  const statement = db.prepare(
    "UPDATE messages SET state = 'cancelled' WHERE process_query_key = ? AND state = 'pending'",
  );
  return Number(statement.run(key).changes) === 1;
}

// Readers beyond the cursor, in order. all(): a half-read result would keep a transaction open.
function newReaders(db, cursor, limit = 500) {
  return db
    .prepare("SELECT id, process_query_key, user_id FROM readers WHERE id > ? ORDER BY id LIMIT ?")
    .all(cursor, limit);
}

async function follow(db, cursorFile) {
  // The cursor is best kept where your own results are, in one transaction with them. A file does for a program that
  // may do its work twice after a crash.
  let cursor = fs.existsSync(cursorFile) ? Number(fs.readFileSync(cursorFile, "utf8")) : 0;
  for (;;) {
    const batch = newReaders(db, cursor);
    for (const { id, process_query_key: key, user_id: user } of batch) {
      console.log(`${user} has read ${key}`);
      cursor = id;
    }
    if (batch.length === 0) {
      await sleep(1000);
      continue;
    }
    fs.writeFileSync(`${cursorFile}.new`, String(cursor));
    fs.renameSync(`${cursorFile}.new`, cursorFile);
  }
}

async function main([command, what, expected, ...more]) {
  if (command === "add" && what && more.length === 0) {
    console.log(add(connect(), what, expected === undefined ? null : Number(expected)) ? "added" : "known");
  } else if (command === "cancel" && what && expected === undefined) {
    console.log(cancel(connect(), what) ? "cancelled" : "not pending");
  } else if (command === "follow" && what && expected === undefined) {
    await follow(connect(), what);
  } else {
    console.error("usage: feeder.js add KEY [EXPECTED_READERS] | follow CURSOR_FILE | cancel KEY");
    process.exitCode = 1;
  }
}

main(process.argv.slice(2));
