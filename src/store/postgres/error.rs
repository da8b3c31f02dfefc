//! PostgreSQL's error codes, as what the caller can do about them.

use std::io;
use std::time::Duration;

use crate::store::StoreError;

/// An error's SQLSTATE; `None` where it did not come from the server.
fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether a row could not be removed since a constraint of another table, or a trigger of somebody's, holds it.
pub(super) fn is_constraint(error: &StoreError) -> bool {
    // Class 23: integrity constraints. P0001: RAISE in somebody's trigger.
    matches!(error, StoreError::Other(error)
        if code(error).is_some_and(|code| code.starts_with("23") || code == "P0001"))
}

/// What an error of sqlx means to a caller of the store. See
/// <https://www.postgresql.org/docs/15/errcodes-appendix.html>.
pub(super) fn failure(error: sqlx::Error) -> StoreError {
    match code(&error).as_deref() {
        Some(code) => match code {
            // A lock that was not granted in time, a deadlock, a transaction that has to be begun again.
            "55P03" | "40001" | "40P01" => StoreError::Busy,
            "53100" => StoreError::Full,
            "XX001" | "XX002" => StoreError::Unusable(format!("the database is damaged: {error}")),
            "3D000" => StoreError::Unusable(format!("the database is gone: {error}")),
            "42501" => StoreError::Unusable(format!(
                "receiptd lacks a right on the database: {error}: grant it, as migrations/README.md shows"
            )),
            // Statements that somebody else's session knows, or ours no longer: a pooler changed the session meanwhile.
            "26000" | "42P05" => {
                StoreError::Unusable(format!("{error}: {}", super::connect::POOLER_HINT))
            }
            // 25P03: idle in a transaction for too long. 25006: a standby. 57014: statement_timeout. 58030: an I/O error of
            // the server. 28: a password that is changed just now. 08, 53, 57P: lost, too many connections, a restart.
            "25P03" | "25006" | "57014" | "58030" => StoreError::Unavailable(error),
            _ if ["08", "28", "53", "57P"]
                .iter()
                .any(|class| code.starts_with(class)) =>
            {
                StoreError::Unavailable(error)
            }
            _ => StoreError::Other(error),
        },
        None => match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Configuration(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed => StoreError::Unavailable(error),
            error => StoreError::Other(error),
        },
    }
}

/// Nothing came back in time.
pub(super) fn no_answer(within: Duration) -> StoreError {
    let error = io::Error::new(
        io::ErrorKind::TimedOut,
        format!("PostgreSQL did not answer within {} s", within.as_secs()),
    );
    StoreError::Unavailable(sqlx::Error::Io(error))
}
