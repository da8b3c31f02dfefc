//! receiptd polls DingTalk for the read receipts of bot messages and writes the readers to SQLite.
//!
//! Other services insert a row for each message that their bot sent. receiptd polls DingTalk until the message's key
//! expires, and writes readers and the final send status back to the same file.
//!
//! # The house
//!
//! ```text
//! main ──► cli ──► daemon ──► store    ──► receipt
//!                     └─────► dingtalk ──────▲
//! ```
//!
//! Arrows run one way. The domain knows nobody; `store` and `dingtalk` do not know each other; nothing knows `cli`.
//!
//! | room | what it is about |
//! |---|---|
//! | [`receipt`] | the domain, pure: messages, outcomes, states. No clock, no I/O |
//! | [`cadence`] | numbers only: when the next call goes out |
//! | [`store`] | the database behind small traits: SQLite, or PostgreSQL |
//! | [`dingtalk`] | the wire: requests, answers, error codes, tokens |
//! | [`daemon`] | scheduler, workers, reconciler: wired, supervised, stopped |
//! | [`settings`], [`telemetry`] | what the operator says, and what he is told |
//! | [`sandbox`] | an imitation of the endpoint, for the demo and the tests |
//! | [`cli`] | one file a subcommand |
//!
//! Begin with [`receipt::settle`], the one place where a message's state changes, then `daemon/scheduler`,
//! `daemon/worker.rs` and `daemon/reconciler.rs` in the order in which the data flows.

pub mod cadence;
pub mod cli;
pub mod daemon;
pub mod dingtalk;
pub mod receipt;
pub mod sandbox;
pub mod settings;
pub mod store;
pub mod telemetry;
