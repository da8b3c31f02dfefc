//! Whether each account gets a token, and may ask.

use std::collections::BTreeMap;

use humantime::format_duration;

use super::super::{common, nodes};
use super::Findings;
use crate::daemon::Published;
use crate::dingtalk::{AccessToken, Client, Credentials, Failure, Query, remedy};
use crate::receipt::{
    AccountName, Chat, CorpId, Disposition, LaneId, MessageKey, RobotCode, UnixMs,
};
use crate::settings::{Account, App, Settings};
use crate::store::{CallCount, Store};

/// No send call returned it.
const NO_KEY: &str = "receiptd-check";

pub(super) struct Accounts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) client: &'a Client,
    pub(super) store: Option<&'a dyn Store>,
    /// Of which kind of chat a query is made.
    pub(super) ask: Option<Chat>,
}

impl Accounts<'_> {
    pub(super) async fn look(&self, found: &mut Findings) {
        let database = &self.settings.database;
        let published = match self.store {
            Some(store) => nodes::look(database, store)
                .await
                .ok()
                .and_then(|found| found.published),
            None => common::published(&database.local_path()),
        };
        let corps = self.corps(found).await;
        self.without_robot(found).await;
        for (name, account) in &self.settings.accounts {
            let of_account = corps.iter().filter(|(owner, _)| owner == name);
            let of_account: Vec<&CorpId> = of_account.map(|(_, corp)| corp).collect();
            self.one(name, account, &of_account, published.as_ref(), found)
                .await;
        }
    }

    /// The organisations that messages name, with their accounts.
    async fn corps(&self, found: &mut Findings) -> Vec<(AccountName, CorpId)> {
        let Some(store) = self.store else {
            return Vec::new();
        };
        match store.totals(common::now()).await {
            Ok(lanes) => lanes
                .into_iter()
                .filter_map(|totals| Some((totals.lane.account, totals.lane.corp?)))
                .collect(),
            Err(error) => {
                found.fails(
                    "database",
                    format!("it cannot be read: {error}"),
                    "try again",
                );
                Vec::new()
            }
        }
    }

    /// Accounts whose messages to persons wait for the code of their bot.
    async fn without_robot(&self, found: &mut Findings) {
        // So many are looked at: how many more there are changes nothing.
        const LOOKED_AT: usize = 1_000;
        let Some(store) = self.store else { return };
        let Ok(rows) = store.overaged(None, UnixMs(i64::MAX), &[], LOOKED_AT).await else {
            return;
        };
        let mut waiting: BTreeMap<&AccountName, usize> = BTreeMap::new();
        for row in &rows {
            if row
                .last_error
                .as_ref()
                .is_some_and(|code| code.as_str() == "robot_code.missing")
            {
                *waiting.entry(&row.lane.account).or_default() += 1;
            }
        }
        for (account, count) in waiting {
            found.warns(
                format!("robot_code of {account}"),
                format!(
                    "{} of chat oto wait: neither they nor the account name their bot",
                    common::counted(count as u64, "message")
                ),
                "set the account's robot_code and reload, or insert such messages with one",
            );
        }
    }

    async fn one(
        &self,
        name: &AccountName,
        account: &Account,
        corps: &[&CorpId],
        published: Option<&Published>,
        found: &mut Findings,
    ) {
        let what = format!("account {name}");
        let secret = match account.app.credentials().1.read() {
            Ok(secret) => secret,
            // Each of these says what to do.
            Err(error) => return found.fails_with(what, &error),
        };
        let mut ticket = None;
        if let App::ThirdParty { suite_key, .. } = &account.app {
            let Some(store) = self.store else {
                // The line about the database says why.
                return found.note(
                    what,
                    "its suite ticket comes from the database, which could not be read",
                );
            };
            match store.suite_ticket(suite_key).await {
                Ok(Some(newest)) => ticket = Some(newest),
                Ok(None) => {
                    return found.fails(
                        what,
                        format!("no suite ticket of {}", suite_key.escape_debug()),
                        "the service that receives DingTalk's callback must write it to suite_tickets",
                    );
                }
                Err(error) => {
                    return found.fails(what, format!("suite_tickets: {error}"), "try again");
                }
            }
            if corps.is_empty() {
                let said = "has a suite ticket; no message names an organisation yet";
                return found.note(what, said);
            }
            if self.ask.is_none() {
                // Another token of an organisation may end the one that the daemon uses.
                found.works(&*what, "has a suite ticket; its tokens are not asked for, since that may end the live ones");
                let lanes = corps.iter().map(|corp| LaneId {
                    account: name.clone(),
                    corp: Some((*corp).clone()),
                });
                let unknown = lanes
                    .filter(|lane| !from_the_daemon(lane, published, found))
                    .count();
                if unknown > 0 {
                    let said = format!("of {unknown} of its organisations {UNKNOWN}");
                    found.note(format!("permission of {name}"), said);
                }
                return;
            }
        }
        let asked: Vec<Option<&CorpId>> = match &account.app {
            App::Internal { .. } => vec![None],
            App::ThirdParty { .. } => corps.iter().map(|corp| Some(*corp)).collect(),
        };
        for corp in asked {
            let lane = LaneId {
                account: name.clone(),
                corp: corp.cloned(),
            };
            let Some(credentials) = Credentials::of(&account.app, corp) else {
                continue;
            };
            let what = format!("account {lane}");
            let issued = self
                .client
                .request_token(&credentials, &secret, ticket.as_deref())
                .await;
            match issued {
                Ok(issued) => {
                    let life = format_duration(issued.lifetime);
                    found.works(what, format!("token ok, expires in {life}"));
                    self.permission(&lane, account, &issued.token, published, found)
                        .await;
                }
                // Each of these says what to do.
                Err(refusal) => found.fails_with(what, &refusal),
            }
        }
    }

    async fn permission(
        &self,
        lane: &LaneId,
        account: &Account,
        token: &AccessToken,
        published: Option<&Published>,
        found: &mut Findings,
    ) {
        let what = format!("permission of {lane}");
        match (self.ask, self.store) {
            (Some(Chat::Oto), _) if account.robot_code.is_none() => {
                found.note(what, "not asked: the account names no robot_code, without which nothing of oto can be asked");
            }
            (Some(chat), Some(store)) => {
                self.query(store, chat, lane, account, token, found).await;
            }
            (Some(_), None) => found.note(what, "not asked: the call could not be counted"),
            (None, _) if from_the_daemon(lane, published, found) => {}
            (None, _) => found.note(what, UNKNOWN),
        }
    }

    /// Asks for a key that does not exist. Counted before it goes out, as every call.
    async fn query(
        &self,
        store: &dyn Store,
        chat: Chat,
        lane: &LaneId,
        account: &Account,
        token: &AccessToken,
        found: &mut Findings,
    ) {
        let what = format!("permission of {lane}");
        let month = common::now().quota_month();
        let counts = match store.calls_in(&month).await {
            Ok(counts) => counts,
            Err(error) => {
                let said = format!("not asked, since the calls cannot be read: {error}");
                return found.note(what, said);
            }
        };
        let spent = common::spent(self.settings, &counts);
        let budget = common::budget_of(self.settings, &lane.account);
        if budget.is_some_and(|(name, calls)| spent.get(&name).is_some_and(|spent| *spent >= calls))
        {
            return found.note(what, "not asked: the month's budget is spent");
        }
        let count = CallCount {
            calls: 1,
            ..CallCount::nothing(lane.clone(), month)
        };
        if let Err(error) = store.count_calls(&[count]).await {
            let said = format!("not asked, since the call cannot be counted: {error}");
            return found.note(what, said);
        }
        let key = MessageKey::from(NO_KEY);
        let query = Query {
            chat,
            key: &key,
            robot_code: account.robot_code.as_ref().map(RobotCode::as_str),
            conversation: None,
            page_size: self.settings.endpoint.page_size,
            next_token: None,
        };
        match self.client.query(token, &query).await {
            Ok(_) => found.works(what, "DingTalk answers its queries"),
            Err(failure) => refused(&failure, what, found),
        }
    }
}

const UNKNOWN: &str =
    "not known, since no query was answered yet; `receiptd check --ask` makes one, a metered call";

/// What a running daemon knows from its own queries; whether it knows anything.
fn from_the_daemon(lane: &LaneId, published: Option<&Published>, found: &mut Findings) -> bool {
    let what = format!("permission of {lane}");
    let corp = lane.corp.as_ref().map(CorpId::as_str);
    let mut lanes = published
        .map(|found| &found.lanes[..])
        .unwrap_or_default()
        .iter();
    let known = lanes
        .find(|known| known.account == lane.account.as_str() && known.corp_id.as_deref() == corp);
    let Some(known) = known else { return false };
    match (&*known.condition, &known.code, known.last_success_at) {
        ("blocked", Some(code), _) => {
            let said = format!("the daemon's queries are refused ({code})");
            found.fails(what, said, remedy(code));
        }
        ("quota", Some(code), _) => {
            let said = format!("no calls are left this month ({code})");
            found.warns(what, said, remedy(code));
        }
        (_, _, Some(at)) => {
            let ago = common::rounded(common::now().since(crate::receipt::UnixMs(at)));
            found.works(what, format!("DingTalk answered the daemon {ago} ago"));
        }
        _ => return false,
    }
    true
}

/// What a refusal of a key that does not exist says of the account.
fn refused(failure: &Failure, what: String, found: &mut Findings) {
    let code = failure.code.as_str();
    match failure.disposition {
        Disposition::Rejected
        | Disposition::NotGeneratedOrExpired
        | Disposition::SendingUnknown
        | Disposition::RestartPaging
        | Disposition::SmallerPages => {
            let said = format!("DingTalk answers its queries (a made-up key: {code})");
            found.works(what, said);
        }
        Disposition::Blocked
            if matches!(
                code,
                "resource.not.found" | "template.not.existed" | "template.stopped"
            ) =>
        {
            let said = format!("DingTalk answers its queries (a made-up key: {code})");
            found.works(what, said);
        }
        Disposition::Throttled { .. } => {
            found.note(what, format!("throttled just now ({code}): try again"));
        }
        Disposition::Retry | Disposition::AddressBanned => {
            found.fails(
                what,
                failure.to_string(),
                "the endpoint is in trouble: try again",
            );
        }
        Disposition::Blocked
        | Disposition::RobotRejected
        | Disposition::LaneBlocked
        | Disposition::RefreshToken
        | Disposition::QuotaExhausted => found.fails(what, failure.to_string(), remedy(code)),
    }
}
