//! The wire: what receiptd says to DingTalk, and what it makes of the answers.
//!
//! ```text
//! client     sends, and reads a bounded answer             Query  -> Page | Failure
//!   wire       bytes of requests and answers, tolerantly
//!   answer     what a status and a body amount to          pure
//!   codes      the table of error codes                    pure
//!   transport  what a call that got no whole answer amounts to
//!   tls        which certificates are trusted
//! token      credentials, tokens, and when to fetch the next
//! failure    a call that brought nothing, named by what to do about it
//! ```
//!
//! A caller branches on a [`Disposition`](crate::receipt::Disposition) or a [`TokenRefusal`], never on a status or a
//! code. Nothing in here retries, waits for its turn or knows a message: that is the daemon's.

mod answer;
mod client;
mod codes;
mod failure;
mod tls;
mod token;
mod transport;
mod wire;

pub use answer::{Answered, Page, read_page};
pub use client::{Client, ClientError};
pub use codes::{OwnCode, Said, classify, remedy};
pub use failure::Failure;
pub use tls::CaError;
pub use token::{
    AccessToken, Credentials, Freshness, IssuedToken, TokenCache, TokenRefusal, read_token,
};
pub use wire::{PageToken, Query, Reader};
