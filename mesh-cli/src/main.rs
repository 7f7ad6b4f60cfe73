//! `mesh`: the reference agent and its tools.
fn main() {}
