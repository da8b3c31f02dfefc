//! SQLite's result codes, as what the caller can do about them.

use crate::store::StoreError;

/// An error's extended result code; `None` where it did not come from SQLite.
pub(super) fn result_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        const READONLY_DBMOVED: i32 = 1032;
        // The index of the write-ahead log could not be made larger: there is no room for it.
        const IOERR_SHMSIZE: i32 = 4874;
        match (&error, result_code(&error)) {
            (_, Some(READONLY_DBMOVED)) => Self::Unusable(
                "the database file was moved or deleted while it was open".to_owned(),
            ),
            (_, Some(IOERR_SHMSIZE)) => Self::Full,
            // The low byte is the primary code: 5 BUSY, 6 LOCKED, 13 FULL, 8 READONLY, 10 IOERR, 14 CANTOPEN,
            // 11 CORRUPT, 26 NOTADB (https://www.sqlite.org/rescode.html).
            (_, Some(code)) => match code & 0xff {
                5 | 6 => Self::Busy,
                13 => Self::Full,
                8 | 10 | 14 => Self::Io(error),
                11 | 26 => Self::Unusable(format!("the database is damaged: {error}")),
                _ => Self::Other(error),
            },
            // Every read connection is taken by a slow query.
            (sqlx::Error::PoolTimedOut, _) => Self::Busy,
            (sqlx::Error::Io(_), _) => Self::Io(error),
            _ => Self::Other(error),
        }
    }
}
