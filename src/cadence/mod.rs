//! When the next call goes out: spend calls where reads happen.
//!
//! A call is metered and a late answer is a cost. This is the classical inspection problem; Keller (1974, "Optimum checking
//! schedules for systems subject to random failure") gives the continuous answer, intervals of √(2·p / r(t)) for reads
//! at rate r(t) and calls worth p seconds each. At the few calls that users can afford the discrete one is 10 to 30 %
//! better, so it is computed:
//!
//! ```text
//! Observation ──learn──► Habits (life tables over a grid of ages, and the prior)
//!                           │ solve (dynamic programme, off the hot path)
//! target calls ◄── Budget ──┤
//!                           ▼
//!                        Policy ──next_age──► the schedule (bounds, jitter, last chance)
//! ```

mod activity;
mod basis;
mod budget;
mod estimate;
mod grid;
mod groups;
mod habits;
mod lifetime;
mod observe;
mod plot;
mod policy;
mod rules;
mod solve;

pub use basis::Basis;
pub use budget::{Call, Month, Threshold};
pub use habits::{Habits, HabitsError, Measured};
pub use lifetime::Lifetime;
pub use observe::{KeyHash, Missing, Observation, Pending};
pub use plot::read_curve;
pub use policy::{Expected, Policy};
pub use rules::Rules;

#[cfg(test)]
mod tests;
