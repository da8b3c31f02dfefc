//! New rows get their first place in their lane's schedule, or wait for the configuration.

use std::collections::{BTreeMap, HashSet};

use tokio::time::Instant;

use super::Scheduler;
use crate::daemon::status::HEARTBEAT_INTERVAL;
use crate::receipt::{AccountName, ErrorCode, LaneId, Message, UnixMs};
use crate::store::{Placement, Result, Scope, Unplace};

/// New rows placed in one transaction, and of one account and organisation at most.
const PLACED_A_ROUND: usize = 1000;
const PLACED_A_LANE: usize = 500;

impl Scheduler {
    /// Gives a slice of the new rows, of all lanes in turn, their first place; whether there may be more.
    pub(super) async fn place_new(&mut self) -> Result<bool> {
        let after = self.place_after.take();
        let began_behind = after.is_some();
        let store = &self.shared.store;
        let accounts = self.shared.lanes.looked_for();
        let scope = accounts.as_deref().map_or(Scope::All, Scope::Of);
        let mut new = store
            .new_rows(scope, after.as_ref(), PLACED_A_LANE, PLACED_A_ROUND)
            .await?;
        self.load_for(&new.rows).await?;
        if accounts.is_some() {
            new.rows.retain(|row| self.is_ours_to_place(row));
        }
        self.placed |= !new.rows.is_empty();
        // Rows of other nodes' lanes stay as they are: to look at them again at once is of no use.
        let more =
            new.next.is_some() || self.placed && began_behind || new.rows.len() >= PLACED_A_LANE;
        self.placed &= new.next.is_some();
        self.place_after = new.next;
        self.write_places(&new.rows).await?;
        Ok(more)
    }

    /// Makes sure that the lanes of rows are served, if that is for this process to do.
    async fn load_for(&self, rows: &[Message]) -> Result<()> {
        let lanes = &self.shared.lanes;
        let wanted: HashSet<LaneId> = rows
            .iter()
            .filter_map(|row| lanes.lane_of(&row.lane).ok())
            .collect();
        let wanted: Vec<LaneId> = wanted.into_iter().collect();
        lanes.load(&wanted, &self.shared).await
    }

    /// Whether a new row's place is this node's to decide: it serves its lane, or no lane serves it.
    fn is_ours_to_place(&self, row: &Message) -> bool {
        let lanes = &self.shared.lanes;
        match lanes.lane_of(&row.lane) {
            Ok(id) => lanes.get(&id).is_some(),
            Err(_) => true,
        }
    }

    /// Gives new rows their first place.
    async fn write_places(&self, rows: &[Message]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut places: Vec<Placement> = rows.iter().map(|row| self.place(row)).collect();
        if self.shared.nodes.is_shared() {
            // A lane that was lost just now is another node's to place rows in.
            places.retain(|place| place.lease.is_some() || place.waits_for.is_some());
        }
        {
            let _counting = self.shared.lanes.counting().await;
            self.shared.store.place(&places).await?;
            self.count_owed(&places);
        }
        self.warn_of_waiting(&places);
        Ok(())
    }

    /// Rows of accounts that no node names are one node's to mark, and to make new again where a node comes that names
    /// theirs. Among several nodes only: one process alone meets them as all others.
    pub(super) async fn keep_house(&mut self) -> Result<()> {
        if Instant::now() < self.next_house {
            return Ok(());
        }
        self.next_house = Instant::now() + HEARTBEAT_INTERVAL;
        let Some(named) = self.shared.nodes.named(&self.shared.lanes) else {
            self.named.clear();
            return Ok(());
        };
        let accounts: Vec<AccountName> = named.iter().cloned().collect();
        for account in named.difference(&self.named) {
            self.unplace(&Unplace::Waiting(account.clone()), &[])
                .await?;
        }
        self.named = named;
        let nobodys = Scope::Except(&accounts);
        let placed = self.shared.store.lanes(nobodys, &[]).await?;
        if !placed.is_empty() {
            let lanes = placed.into_iter().map(|due| due.lane).collect();
            self.unplace(&Unplace::Lanes(lanes), &[]).await?;
        }
        // Once through all accounts, whatever comes of their rows: the next pass is not far.
        let mut after = None;
        loop {
            self.beat();
            let store = &self.shared.store;
            let new = store
                .new_rows(nobodys, after.as_ref(), PLACED_A_LANE, PLACED_A_ROUND)
                .await?;
            self.write_places(&new.rows).await?;
            let Some(last) = new.next else {
                return Ok(());
            };
            after = Some(last);
        }
    }

    /// The place of a new row in its lane's schedule, or why it waits.
    fn place(&self, row: &Message) -> Placement {
        let lanes = &self.shared.lanes;
        let (id, waits_for) = match lanes.lane_of(&row.lane) {
            Ok(_) if !lanes.has_robot(row) => (
                row.lane.clone(),
                Some(ErrorCode::from("robot_code.missing")),
            ),
            Ok(id) => (id, None),
            Err(code) => (row.lane.clone(), Some(code)),
        };
        let lane = lanes.get(&id);
        let schedule = match &lane {
            Some(lane) => lane.policy.schedule(row.chat),
            None => lanes.prior(),
        };
        let mut message = schedule.place(row, self.now);
        message.lane = id;
        if waits_for.is_some() {
            message.last_chance_at = None;
        }
        Placement {
            message,
            waits_for,
            lease: lane.and_then(|lane| lane.lease.clone()),
        }
    }

    /// Last chances that placed rows owe their budgets.
    fn count_owed(&self, places: &[Placement]) {
        for place in places.iter().filter(|place| place.waits_for.is_none()) {
            if let Some(lane) = self.shared.lanes.get(&place.message.lane) {
                let budget = &lane.setup().budget;
                if let Some(month) = budget.month(self.now) {
                    let owes = place.message.owes_last_chance(UnixMs(month.ends_at));
                    budget.shift_owed(u64::from(owes), 0);
                }
            }
        }
    }

    /// One warning for each reason, whatever the number of accounts.
    fn warn_of_waiting(&self, places: &[Placement]) {
        let mut waiting: BTreeMap<&str, Vec<&Placement>> = BTreeMap::new();
        for place in places {
            if let Some(code) = &place.waits_for {
                waiting.entry(code.as_str()).or_default().push(place);
            }
        }
        for (code, places) in waiting {
            let Some(again) = self.shared.warnings.admit(code) else {
                continue;
            };
            let what = match code {
                "account.unknown" => {
                    "no [accounts] section of the configuration has this name; add it and reload"
                }
                "robot_code.missing" => {
                    "messages of chat oto are asked for with their bot's code; give the rows one, or the account, and reload"
                }
                _ => "rows of a third-party app need a corp_id",
            };
            let (lane, messages) = (&places[0].message.lane, places.len());
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %ErrorCode::from(code),
                messages.waiting = messages,
                suppressed = again.count(),
                "account {lane}: {code}: {what}; {messages} new messages wait, of this account or others{again}"
            );
        }
    }
}
