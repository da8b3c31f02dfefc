//! Wires the three rooms, supervises them, stops them.

mod clock;

pub use clock::Clock;
