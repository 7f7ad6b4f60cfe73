//! Which rule does a request meet? The real table against an oracle that is slow, obvious, and written
//! from the prose of the Gateway API alone.
//!
//! `MESH_TABLES` says how many random tables are compared, each with [`REQUESTS`] requests:
//!
//! ```sh
//! MESH_TABLES=1000000 cargo test --release -p inmesh-core --test precedence -- --nocapture
//! ```
//!
//! A difference is named by its seed.

mod oracle;
mod real;
mod table;

use std::collections::BTreeMap;
use std::env;

use inmesh_core::model::Draw;

use table::{Ask, Table};

/// How many tables there are if `MESH_TABLES` is not set.
const TABLES: u64 = 3_000;
/// How many requests meet each of them.
const REQUESTS: usize = 8;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// No route is attached: it goes to the Service itself.
    Itself,
    /// Routes are attached and none matches.
    Nothing,
    /// A rule, counted from 0, of a route: kind, namespace and name.
    Rule(String, usize),
}

#[test]
fn the_table_and_the_prose_agree() -> Result<(), Box<dyn std::error::Error>> {
    let tables = env::var("MESH_TABLES").map_or(Ok(TABLES), |n| n.parse())?;
    let (mut seen, patterns) = (BTreeMap::new(), real::patterns()?);
    for seed in 0..tables {
        let draw = &mut Draw::new(seed);
        let table = Table::drawn(draw);
        let real = real::Real::of(&table, &patterns)?;
        for _ in 0..REQUESTS {
            let ask = Ask::drawn(draw);
            let (met, wanted) = (real.met(&ask)?, oracle::met(&table, &ask));
            assert_eq!(met, wanted, "seed {seed}: {ask:#?} of {table:#?}");
            let kind = match &wanted {
                Met::Itself => "the Service itself",
                Met::Nothing => "no rule",
                Met::Rule(route, _) => match route.split('/').next() {
                    Some("GRPCRoute") => "a GRPCRoute",
                    Some("TCPRoute") => "a TCPRoute",
                    Some("TLSRoute") => "a TLSRoute",
                    _ => "an HTTPRoute",
                },
            };
            *seen.entry(kind).or_insert(0_u64) += 1;
        }
    }
    println!("{tables} tables, 0 differences; requests met {seen:?}");
    // Each way is walked, so that none agrees only because it is never taken.
    let share = |of: &str| seen.get(of).copied().unwrap_or_default() * 100 / tables.max(1);
    for (kind, least) in [
        ("the Service itself", 20),
        ("no rule", 20),
        ("a GRPCRoute", 20),
        ("an HTTPRoute", 20),
        ("a TLSRoute", 5),
        ("a TCPRoute", 5),
    ] {
        assert!(share(kind) >= least, "{kind} is met too seldom: {seen:?}");
    }
    Ok(())
}
