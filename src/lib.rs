//! receiptd polls DingTalk for the read receipts of bot messages.

pub mod cli;
pub mod daemon;
pub mod dingtalk;
pub mod receipt;
pub mod sandbox;
pub mod settings;
pub mod store;
pub mod telemetry;
