//! Whether the endpoint answers, and whether the clocks agree.

use std::time::Duration;

use humantime::format_duration;

use super::super::common;
use super::Findings;
use crate::dingtalk::Client;
use crate::settings::Endpoint;

/// Farther off, and a message's age, which is counted from the sending, is wrong to speak of.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The client, where one can be made.
pub(super) async fn look(endpoint: &Endpoint, found: &mut Findings) -> Option<Client> {
    let client = match Client::new(endpoint) {
        Ok(client) => client,
        Err(error) => {
            found.fails_with("endpoint", &error);
            return None;
        }
    };
    let base = &endpoint.base_url;
    match client.probe_clock().await {
        Err(failure) => found.fails(
            "endpoint",
            format!("{base} does not answer ({failure})"),
            "check endpoint.base_url, the network and the proxy",
        ),
        Ok(there) => {
            found.works("endpoint", format!("{base} answers"));
            let here = common::now();
            match there.map(|there| here.since(there).max(there.since(here))) {
                None => found.note("clock", "the endpoint does not say its time"),
                Some(off) if off > CLOCK_TOLERANCE => {
                    let off = format_duration(Duration::from_secs(off.as_secs()));
                    found.fails(
                        "clock",
                        format!("{off} off the endpoint's"),
                        "let NTP set this machine's clock",
                    );
                }
                Some(_) => found.works("clock", "agrees with the endpoint's"),
            }
        }
    }
    Some(client)
}
