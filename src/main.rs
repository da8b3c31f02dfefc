//! Parse, load, hand over.

fn main() {}
