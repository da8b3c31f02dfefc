//! receiptd polls DingTalk for the read receipts of bot messages and writes the readers to SQLite.
//!
//! Other services insert a row for each message that their bot sent. receiptd polls DingTalk until the message's key
//! expires, and writes readers and the final send status back to the same file.
//!
//! # The house
//!
//! ```text
//! main ──► cli ──► daemon ──► store    ──► receipt ──► cadence
//!                     └─────► dingtalk ──────▲
//! ```
//!
//! Arrows run one way. The cadence knows nobody; `store` and `dingtalk` do not know each other; nothing knows `cli`.
//!
//! | room | what it is about |
//! |---|---|
//! | [`cadence`] | numbers only: when the next call goes out. Knows ages and counts, no message |
//! | [`receipt`] | the domain, pure: messages, outcomes, states. No clock, no I/O |
//! | [`store`] | the database behind small traits, by caller: SQLite, or PostgreSQL |
//! | [`dingtalk`] | the wire: requests, answers, error codes, tokens |
//! | [`daemon`] | scheduler, workers, reconciler: wired, supervised, stopped |
//! | [`settings`], [`telemetry`] | what the operator says, and what he is told |
//! | [`sandbox`] | an imitation of the endpoint, for the demo and the tests |
//! | [`cli`] | one file a subcommand |
//!
//! # The way of one poll
//!
//! From the row to the row, in the order in which the data flows:
//!
//! | file | what it does |
//! |---|---|
//! | `store/sqlite/claims.rs` | finds new and due rows of all lanes |
//! | `daemon/scheduler/` | decides whose turn it is: rows become jobs |
//! | `daemon/lanes.rs` | the lanes that this process serves, and what is in flight |
//! | `daemon/nodes.rs` | which of several processes has which groups of lanes (PostgreSQL) |
//! | `daemon/worker.rs` | asks for one key, page by page: a job becomes an outcome |
//! | `daemon/lane/mod.rs` | all that the calls of an account at an organisation share |
//! | `daemon/lane/health.rs`, `pace.rs`, `token.rs`, `policy.rs` | may it call, how fast, with which token, when next |
//! | `daemon/budget.rs` | whether the month can afford the call |
//! | `dingtalk/client.rs` | the call |
//! | `daemon/reconciler.rs` | outcomes become rows, in one transaction for many; `daemon/pushed.rs`: so do reads that DingTalk pushed |
//! | `receipt/settle.rs`, `schedule.rs` | what an outcome makes of a message: the one place where states change |
//! | `store/sqlite/results.rs` | begin and find, write, commit |

pub mod cadence;
pub mod cli;
pub mod daemon;
pub mod dingtalk;
pub mod receipt;
pub mod sandbox;
pub mod settings;
pub mod store;
pub mod telemetry;
