//! Whether a PostgreSQL server is as receiptd needs it.

use super::{Findings, common};
use crate::settings::PostgresUrl;
use crate::store::Store;
use crate::store::postgres::{self, CLOCK_TOLERANCE};

/// Dead rows worth a word: as many as live ones, and not just a few.
const MANY_DEAD_ROWS: u64 = 50_000;

/// Looks at what can be wrong with a server whose tables opened.
pub(super) async fn look(url: &PostgresUrl, store: &dyn Store, found: &mut Findings) {
    let before = common::now();
    let server = match postgres::examine(url).await {
        Ok(server) => server,
        // It says what to do.
        Err(error) => return found.fails_with("server", &error),
    };
    found.works(
        "server",
        format!("PostgreSQL {}, no pooler in the way", server.version),
    );
    match (&server.exposed, server.encrypted) {
        (Some(exposed), _) => found.warns("encryption", exposed.clone(), "see database.url"),
        (None, Some(true)) => found.works("encryption", "TLS, and the certificate is the server's"),
        (None, Some(false)) => found.warns(
            "encryption",
            "the connection is not encrypted",
            "remove sslmode from database.url",
        ),
        (None, None) => found.works("encryption", "the connection does not leave this machine"),
    }
    match server.lacking.is_empty() {
        true => found.works("rights", "all that the daemon needs"),
        false => found.fails(
            "rights",
            format!("missing: {}", server.lacking.join(", ")),
            "let the tables belong to this user, or GRANT them, as migrations/README.md shows",
        ),
    }
    let after = common::now();
    let (early, late) = (before.since(server.clock), server.clock.since(after));
    let apart = early.max(late);
    match apart > CLOCK_TOLERANCE {
        true => found.warns(
            "server time",
            format!(
                "this machine's and the server's are {} apart",
                humantime::format_duration(std::time::Duration::from_secs(apart.as_secs()))
            ),
            "let both follow a time server",
        ),
        false => found.works("server time", "this machine's and the server's agree"),
    }
    let (live, dead) = (server.live_rows, server.dead_rows);
    match dead > live.max(MANY_DEAD_ROWS) {
        true => found.warns(
            "tables",
            format!("messages holds {dead} dead rows beside {live}"),
            "see that autovacuum runs and that no transaction is open for hours, then: VACUUM messages",
        ),
        false => found.works("tables", format!("messages: {live} rows, {dead} dead ones")),
    }
    match store.maintain().await {
        Ok(health) => match health.warning {
            Some(warning) => found.warns("old transactions", warning, "see above"),
            None => found.works("old transactions", "none holds dead rows back"),
        },
        Err(error) => found.fails(
            "old transactions",
            error.with_source(),
            "see the server's log",
        ),
    }
}
