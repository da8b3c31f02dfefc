//! SQLite's result codes, as what the caller can do about them.

use crate::store::StoreError;

/// An error's extended result code; `None` where it did not come from SQLite.
fn result_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Whether a row could not be written or removed since a constraint, a foreign key or a trigger of somebody's holds it.
pub(super) fn is_constraint(error: &sqlx::Error) -> bool {
    result_code(error).is_some_and(|code| code & 0xff == 19)
}

/// What an error of sqlx means to a caller of the store.
pub(super) fn failure(error: sqlx::Error) -> StoreError {
    const READONLY_DBMOVED: i32 = 1032;
    // The index of the write-ahead log could not be made larger: there is no room for it.
    const IOERR_SHMSIZE: i32 = 4874;
    match (&error, result_code(&error)) {
        (_, Some(READONLY_DBMOVED)) => StoreError::Unusable(
            "the database file was moved or deleted while it was open".to_owned(),
        ),
        (_, Some(IOERR_SHMSIZE)) => StoreError::Full,
        // The low byte is the primary code: 5 BUSY, 6 LOCKED, 13 FULL, 8 READONLY, 10 IOERR, 14 CANTOPEN,
        // 11 CORRUPT, 26 NOTADB (https://www.sqlite.org/rescode.html).
        (_, Some(code)) => match code & 0xff {
            5 | 6 => StoreError::Busy,
            13 => StoreError::Full,
            8 | 10 | 14 => StoreError::Unavailable(error),
            11 | 26 => StoreError::Unusable(format!("the database is damaged: {error}")),
            _ => StoreError::Other(error),
        },
        // Every read connection is taken by a slow query.
        (sqlx::Error::PoolTimedOut, _) => StoreError::Busy,
        (sqlx::Error::Io(_), _) => StoreError::Unavailable(error),
        _ => StoreError::Other(error),
    }
}

/// What was to be bound could not be written as JSON.
pub(super) fn not_json(error: serde_json::Error) -> StoreError {
    StoreError::Other(sqlx::Error::Encode(Box::new(error)))
}
