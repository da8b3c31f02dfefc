//! Rows of `messages` by the hundred: one JSON text instead of a row at a time.
//!
//! A row that sqlx hands over costs a duplicate of each value and, mostly, a wake-up of the waiting thread: more than all
//! that SQLite does for it. So rows come as one value. That way is strict: the first cell that is not what it should be
//! fails the whole, and the batch is read again row by row ([`super::rows`]), which finds the row to blame. That row is
//! then set aside, so that the slow way is taken once.

use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqlitePool};

use super::error::result_code;
use super::rows::{Cells, Decoded, Raw, decode};
use crate::store::Result;

/// A SELECT of rows of `messages`, both ways.
pub(super) struct Select {
    /// One text for all.
    pub(super) text: &'static str,
    /// Row by row.
    pub(super) rows: &'static str,
}

/// The [`Select`] of all columns with what follows them.
macro_rules! select {
    ($tail:literal) => {
        $crate::store::sqlite::batch::Select {
            text: concat!(
                "SELECT json_group_array(json_array(",
                $crate::store::sqlite::rows::column_names!(),
                ")) FROM (SELECT ",
                $crate::store::sqlite::rows::columns!(),
                $tail,
                ")"
            ),
            rows: concat!("SELECT ", $crate::store::sqlite::rows::columns!(), $tail),
        }
    };
}
pub(super) use select;

/// A statement with what is bound to it.
pub(super) type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// Where to read.
pub(super) enum Source<'c> {
    /// Any connection that reads.
    Pool(&'c SqlitePool),
    /// Within a transaction.
    Connection(&'c mut SqliteConnection),
}

impl Source<'_> {
    async fn fetch(&mut self, query: Query) -> sqlx::Result<Vec<sqlx::sqlite::SqliteRow>> {
        match self {
            Self::Pool(pool) => query.fetch_all(*pool).await,
            Self::Connection(connection) => query.fetch_all(&mut **connection).await,
        }
    }
}

/// The rows that `select` finds, with `bind` giving its parameters, in its order.
pub(super) async fn read(
    mut source: Source<'_>,
    select: &Select,
    bind: impl Fn(Query) -> Query,
) -> Result<Vec<Decoded>> {
    /// A statement's own failure: here, that JSON can't hold a BLOB.
    const ERROR: Option<i32> = Some(1);
    match source.fetch(bind(sqlx::query(select.text))).await {
        Ok(rows) => {
            let text = rows.first().and_then(|row| Cells::new(row).text("rows"));
            if let Some(sound) = text.and_then(parse) {
                return Ok(sound);
            }
        }
        Err(error) if result_code(&error) == ERROR => {}
        Err(error) => return Err(error.into()),
    }
    let rows = source.fetch(bind(sqlx::query(select.rows))).await?;
    Ok(rows.iter().map(decode).collect())
}

/// All the rows, or nothing if one is not sound.
fn parse(text: &str) -> Option<Vec<Decoded>> {
    let raw: Vec<Raw<'_>> = serde_json::from_str(text).ok()?;
    let sound = raw.into_iter().map(|raw| {
        let decoded = raw.decoded();
        decoded.invalid.is_none().then_some(decoded)
    });
    sound.collect()
}
