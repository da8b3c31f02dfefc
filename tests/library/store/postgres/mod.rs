//! The suite's backend on PostgreSQL, and PostgreSQL's own promises.

mod cursor;
mod nodes;
mod outages;
mod promises;
mod readme;
mod refusals;
mod transfer;

use std::time::{Duration, Instant};

use receiptd::receipt::{Message, UnixMs};
use receiptd::store::postgres::PostgresStore;
use receiptd::store::{Reader, Role};
use sqlx::AssertSqlSafe;

use super::cluster::Cluster;
use super::{Backend, READERS, ReaderRow, add_placed, at, claim, reader_of};

/// A store in a database of its own; feeders come over a connection of their own.
pub(crate) struct PostgresBackend {
    store: Option<PostgresStore>,
    database: String,
}

/// Whether there is a PostgreSQL to test with.
pub(crate) fn available() -> bool {
    Cluster::shared().is_some()
}

/// The only message of a store, placed and claimed.
async fn placed(store: &PostgresStore) -> Message {
    add_placed(store, &[("a", "x", at(5))]).await;
    claim(store, "a", at(5)).await
}

fn cluster() -> &'static Cluster {
    Cluster::shared().unwrap()
}

async fn open(database: &str) -> Option<PostgresStore> {
    let url = cluster().url(database);
    let opened = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ()).await;
    Some(opened.unwrap())
}

impl PostgresBackend {
    async fn run(&self, statement: &str) {
        let mut feeder = cluster().connect(&self.database).await;
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut feeder).await.unwrap();
    }
}

/// A text as it stands in a statement.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Backend for PostgresBackend {
    type Store = PostgresStore;

    async fn fresh() -> Self {
        let database = cluster().database().await;
        Self {
            store: open(&database).await,
            database,
        }
    }

    fn store(&self) -> &PostgresStore {
        self.store.as_ref().unwrap()
    }

    async fn cancel(&self, key: &str) {
        let key = quoted(key);
        self.run(&format!(
            "UPDATE messages SET state = 'cancelled' WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn delete(&self, key: &str) {
        let key = quoted(key);
        self.run(&format!(
            "DELETE FROM messages WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn rename(&self, key: &str, to: &str) {
        let (key, to) = (quoted(key), quoted(to));
        self.run(&format!(
            "UPDATE messages SET process_query_key = {to} WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn give_to(&self, key: &str, account: &str) {
        let (key, account) = (quoted(key), quoted(account));
        self.run(&format!(
            "UPDATE messages SET account = {account} WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn reschedule(&self, key: &str, at: UnixMs) {
        let (key, at) = (quoted(key), at.0);
        self.run(&format!(
            "UPDATE messages SET next_poll_at = {at} WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn corrupt(&self, key: &str) {
        let key = quoted(key);
        self.run(&format!(
            "ALTER TABLE messages DROP CONSTRAINT IF EXISTS chat_is_private_group_or_oto;
            UPDATE messages SET chat = 'neither' WHERE process_query_key = {key}"
        ))
        .await;
    }

    async fn remove_reader(&self, key: &str, user: &str) {
        let (key, user) = (quoted(key), quoted(user));
        self.run(&format!(
            "DELETE FROM readers WHERE process_query_key = {key} AND user_id = {user}"
        ))
        .await;
    }

    async fn put_ticket(&self, suite: &str, ticket: &str) {
        let (suite, ticket) = (quoted(suite), quoted(ticket));
        self.run(&format!(
            "INSERT INTO suite_tickets (suite_key, ticket) VALUES ({suite}, {ticket})
            ON CONFLICT (suite_key) DO UPDATE SET ticket = excluded.ticket"
        ))
        .await;
    }

    async fn push(&self, key: &str, user: &str, read_at: Option<UnixMs>) {
        let (key, user) = (quoted(key), quoted(user));
        let at = read_at.map_or("NULL".to_owned(), |at| at.0.to_string());
        self.run(&format!(
            "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES ({key}, {user}, {at})"
        ))
        .await;
    }

    async fn pushed(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT process_query_key, user_id FROM read_events ORDER BY id")
            .fetch_all(&mut cluster().connect(&self.database).await)
            .await
            .unwrap()
    }

    async fn readers(&self) -> Vec<(String, Reader)> {
        let rows: Vec<ReaderRow> = sqlx::query_as(READERS)
            .fetch_all(&mut cluster().connect(&self.database).await)
            .await
            .unwrap();
        rows.into_iter().map(reader_of).collect()
    }

    async fn crash(mut self) -> Self {
        drop(self.store.take());
        // Its sessions end when the server notices; a COMMIT that was on its way is done then, or never.
        let mut watcher = cluster().connect(&self.database).await;
        let began = Instant::now();
        loop {
            let (left,): (i64,) = sqlx::query_as(
                "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'receiptd/%'",
            )
            .fetch_one(&mut watcher)
            .await
            .unwrap();
            if left == 0 {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{left} sessions stay"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.store = open(&self.database).await;
        self
    }
}

impl Drop for PostgresBackend {
    fn drop(&mut self) {
        drop(self.store.take());
        cluster().drop_database(&self.database);
    }
}
