//! The DingTalk client against bytes: every code, every lie, and the wire itself.

mod calls;
mod codes;
mod counting;
mod pages;
mod server;
mod tls;
mod tokens;
