#!/usr/bin/env node
// Feeds receiptd and follows its answers. Node.js 22.13 or newer needs nothing else; older ones: npm install better-sqlite3@12
// For PostgreSQL: npm install pg
//
//     feeder.js add KEY [EXPECTED_READERS]    one message that the bot sent
//     feeder.js follow CURSOR_FILE            prints each new reader, for ever; goes on where it ended
//     feeder.js cancel KEY                    asks no more for this message
//
// The database is $RECEIPTD_DATABASE: a file, or postgres://USER@HOST/DATABASE; /var/lib/receiptd/receiptd.db where that is not set.
"use strict";

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");

// Both databases in the same words: how many rows a statement changed, and the rows of a query, fetched whole, since a half-read
// result would keep a transaction open.
async function connect(database = process.env.RECEIPTD_DATABASE || "/var/lib/receiptd/receiptd.db") {
  if (/^postgres(ql)?:/.test(database)) {
    const client = new (require("pg").Client)(database);
    await client.connect();
    return {
      change: async (statement, ...values) => (await client.query(statement, values)).rowCount,
      rows: async (query, ...values) => (await client.query(query, values)).rows,
      close: () => client.end(),
    };
  }
  let Database;
  try {
    Database = require("node:sqlite").DatabaseSync;
  } catch {
    Database = require("better-sqlite3");
  }
  const db = new Database(database);
  db.exec("PRAGMA busy_timeout = 5000"); // Wait for another writer.
  db.exec("PRAGMA wal_autocheckpoint = 0"); // receiptd does that.
  const prepare = (statement) => db.prepare(statement.replace(/\$\d/g, "?"));
  return {
    change: async (statement, ...values) => Number(prepare(statement).run(...values).changes),
    rows: async (query, ...values) => prepare(query).all(...values),
    close: async () => db.close(),
  };
}

// Inserts a message; whether it is a new one.
async function add(db, key, expectedReaders = null) {
  const statement = "INSERT INTO messages (process_query_key, expected_readers) VALUES ($1, $2) ON CONFLICT DO NOTHING";
  return (await db.change(statement, key, expectedReaders)) === 1;
}

// Whether the message was still asked for.
async function cancel(db, key) {
  const statement = "UPDATE messages SET state = 'cancelled' WHERE process_query_key = $1 AND state = 'pending'";
  return (await db.change(statement, key)) === 1;
}

// Readers beyond the cursor, in order. PostgreSQL's driver hands ids over as text.
function newReaders(db, cursor, limit = 500) {
  return db.rows("SELECT id, process_query_key, user_id FROM readers WHERE id > $1 ORDER BY id LIMIT $2", cursor, limit);
}

async function follow(db, cursorFile) {
  // The cursor is best kept where your own results are, in one transaction with them. A file does for a program that
  // may do its work twice after a crash.
  let cursor = fs.existsSync(cursorFile) ? Number(fs.readFileSync(cursorFile, "utf8")) : 0;
  for (;;) {
    const batch = await newReaders(db, cursor);
    for (const { id, process_query_key: key, user_id: user } of batch) {
      console.log(`${user} has read ${key}`);
      cursor = Number(id);
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
  let task;
  if (command === "add" && what && more.length === 0) {
    const readers = expected === undefined ? null : Number(expected);
    task = async (db) => console.log((await add(db, what, readers)) ? "added" : "known");
  } else if (command === "cancel" && what && expected === undefined) {
    task = async (db) => console.log((await cancel(db, what)) ? "cancelled" : "not pending");
  } else if (command === "follow" && what && expected === undefined) {
    task = (db) => follow(db, what);
  } else {
    console.error("usage: feeder.js add KEY [EXPECTED_READERS] | follow CURSOR_FILE | cancel KEY");
    process.exitCode = 1;
    return;
  }
  const db = await connect();
  await task(db);
  await db.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(String(error));
  process.exit(1);
});
