//! What really happens to a message, for a test to compare with.

use serde::{Serialize, Serializer};

use crate::receipt::UnixMs;

/// A message's whole life, past and to come. Times are of the sandbox's clock.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Truth {
    /// `processQueryKey`
    pub key: String,
    /// When it was sent.
    #[serde(serialize_with = "ms")]
    pub sent_at: UnixMs,
    /// From then on the key is answered.
    #[serde(serialize_with = "ms")]
    pub generated_at: UnixMs,
    /// From then on it is `RECALLED`.
    #[serde(serialize_with = "ms_or_null")]
    pub recalled_at: Option<UnixMs>,
    /// From then on the key is not answered any more; later reads are never told.
    #[serde(serialize_with = "ms")]
    pub expires_at: UnixMs,
    /// `sendStatus` in the end.
    pub final_status: String,
    /// Who reads it and when, in that order; nobody reads after a recall.
    pub readers: Vec<ReadAt>,
    /// Recipients who never read it.
    pub absent: Vec<String>,
}

/// A reader.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadAt {
    /// `userId`
    pub user_id: String,
    /// When.
    #[serde(serialize_with = "ms")]
    pub read_at: UnixMs,
}

impl Truth {
    /// Who can be known to have read it: reads before the key expires.
    pub fn knowable(&self) -> impl Iterator<Item = &ReadAt> {
        self.readers
            .iter()
            .filter(|reader| reader.read_at < self.expires_at)
    }
}

fn ms<S: Serializer>(time: &UnixMs, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_i64(time.0)
}

#[allow(
    clippy::ref_option,
    reason = "serde hands over a reference to the field"
)]
fn ms_or_null<S: Serializer>(time: &Option<UnixMs>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.serialize_some(&time.0),
        None => to.serialize_none(),
    }
}
