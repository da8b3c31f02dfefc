//! What `check` asks of a server.

use std::time::Duration;

use super::connect::{ANSWER, Connector, OpenError, Purpose};
use super::error::{failure, no_answer};
use super::rows::Cells;
use crate::receipt::UnixMs;
use crate::settings::PostgresUrl;
use crate::store::{Role, StoreError};

/// A server as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As it calls itself.
    pub version: String,
    /// Whether the connection is encrypted; `None` where it does not leave this machine.
    pub encrypted: Option<bool>,
    /// Why that does not keep others out.
    pub exposed: Option<String>,
    /// The server's clock.
    pub clock: UnixMs,
    /// Rights that receiptd needs and lacks, as `INSERT on readers`.
    pub lacking: Vec<String>,
    /// Rows of `messages`, as last estimated …
    pub live_rows: u64,
    /// … and what updates and deletes left of others, which vacuum has yet to remove.
    pub dead_rows: u64,
}

/// $1: tables, $2: rights.
const LACKING: &str =
    "SELECT need || ' on ' || name FROM unnest($1::TEXT[], $2::TEXT[]) AS n(name, need)
    WHERE NOT has_table_privilege(name, need)";

const FACTS: &str = "SELECT current_setting('server_version'),
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)::INTEGER::BIGINT,
    (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT,
    coalesce((SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = to_regclass('messages')), 0),
    coalesce((SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = to_regclass('messages')), 0)";

/// What the daemon does to which table.
const NEEDS: [(&str, &[&str]); 11] = [
    ("messages", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("readers", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("read_events", &["SELECT", "UPDATE", "DELETE"]),
    ("orphans", &["SELECT", "DELETE"]),
    ("suite_tickets", &["SELECT"]),
    ("api_calls", &["SELECT", "INSERT", "UPDATE"]),
    ("habits", &["SELECT", "INSERT", "UPDATE"]),
    ("turn", &["SELECT", "UPDATE"]),
    ("commits", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("nodes", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("leases", &["SELECT", "INSERT", "UPDATE"]),
];

/// Looks at a server whose tables are there.
///
/// # Errors
/// It cannot be reached, or a pooler in transaction mode stands before it.
pub async fn examine(url: &PostgresUrl) -> Result<Server, OpenError> {
    let connector = Connector::new(url, Role::Reader, "check")?;
    connector.check_pooler().await?;
    let mut connection = connector.connect(Purpose::Serving).await?;
    let mut tables = Vec::new();
    let mut rights = Vec::new();
    for (table, needs) in NEEDS {
        for need in needs {
            tables.push(table);
            rights.push(*need);
        }
    }
    let asking = async {
        let facts = sqlx::query(FACTS).fetch_one(&mut connection).await?;
        let lacking = sqlx::query(LACKING)
            .bind(&tables)
            .bind(&rights)
            .fetch_all(&mut connection)
            .await?;
        Ok((facts, lacking))
    };
    let asked = match tokio::time::timeout(ANSWER, asking).await {
        Ok(asked) => asked.map_err(failure),
        Err(_) => Err(no_answer(ANSWER)),
    };
    let (facts, lacking) = asked.map_err(|error: StoreError| connector.failed(error))?;
    let mut cells = Cells::of(&facts);
    let version = cells.required_text("version").to_owned();
    let encrypted = cells.required_number("ssl") != 0;
    Ok(Server {
        version,
        encrypted: (!connector.is_local()).then_some(encrypted),
        exposed: connector.exposed(),
        clock: UnixMs(cells.required_number("clock")),
        live_rows: cells.count("live"),
        dead_rows: cells.count("dead"),
        lacking: lacking
            .iter()
            .map(|row| Cells::of(row).required_text("right").to_owned())
            .collect(),
    })
}

/// By so much a clock may be wrong before times in the tables mislead people.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
