//! What a whole decision costs (resolve, authorize, route, balance) on 1, 100 and 10,000 Services,
//! and what one change of an endpoint costs beside 10,000.
//!
//! A program knows all Services and calls some: 10,000 are measured with 100 called, in an order
//! without a pattern, and with all called, where next to nothing that a decision reads is in a
//! cache.

#[path = "../../mesh-pki/benches/support/clock.rs"]
mod clock;
#[path = "../../mesh-pki/benches/support/criterion_clock.rs"]
mod criterion_clock;
#[path = "support/decision.rs"]
mod decision;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use criterion_clock::CpuTime;
use decision::{RULES, TENANT, authorities, decision, slice, source, world};
use http::{HeaderMap, HeaderValue, Method};
use inmesh_core::authorize::HttpView;
use inmesh_core::identify::Peer;
use inmesh_core::model::Draw;
use inmesh_core::snapshot::Change;
use inmesh_pki::SpiffeId;

const SIZES: [usize; 3] = [1, 100, 10_000];
/// Services that are known, how many of them are called, and the rules of the hot one, which is called
/// alone.
const CALLED: [(usize, usize, usize); 5] = [
    (1, 1, RULES),
    (100, 100, RULES),
    (10_000, 100, RULES),
    (10_000, 10_000, RULES),
    (10_000, 1, 100),
];

fn decide(criterion: &mut Criterion<CpuTime>) {
    let peer: SpiffeId = "spiffe://example.org/ns/shop/sa/web"
        .parse()
        .expect("an ID");
    let peer = Peer::Verified(peer);
    let mut headers = HeaderMap::new();
    headers.insert(TENANT, HeaderValue::from_static("stable"));
    let http = HttpView::new(&Method::POST, "/items/42", None, &headers);
    let mut group = criterion.benchmark_group("decision");
    for (services, called, rules) in CALLED {
        let snapshot = world(services, rules).expect("the world is well formed");
        let authorities = authorities(services, called).expect("names are well formed");
        let mut asked = authorities.iter().cycle();
        let mut draw = Draw::new(7);
        let hot = if rules == RULES {
            String::new()
        } else {
            format!(", {rules} rules")
        };
        let id = BenchmarkId::from_parameter(format!("{called} of {services} called{hot}"));
        group.bench_function(id, |b| {
            b.iter(|| {
                let authority = asked.next().expect("it goes round");
                let went = decision(&snapshot, authority, &peer, http, &mut draw);
                assert_eq!(black_box(went), Some(15_006));
            });
        });
    }
    group.finish();
}

fn apply(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("apply one endpoint");
    for services in SIZES {
        let snapshot = Arc::new(world(services, RULES).expect("the world is well formed"));
        let change = slice(services / 2, false).expect("a slice");
        let change = Change::update(source(), vec![change]);
        let generation = snapshot.generation();
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter(|| {
                let next = snapshot.apply(change.clone());
                assert_eq!(black_box(next).generation(), generation + 1);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = decide, apply
}
criterion_main!(benches);
