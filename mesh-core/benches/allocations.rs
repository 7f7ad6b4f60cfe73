//! How often one request allocates, on both sides together: bare hyper and rustls, and the mesh; and
//! one decision among 10,000 Services, of which the called one has 100 rules.
//!
//! Everything runs on one thread, since the counter counts by thread.

#[path = "support/decision.rs"]
mod decision;
#[path = "support/echo.rs"]
mod echo;

use allocation_counter::measure;
use decision::{TENANT, authorities, decision, world};
use echo::{Bare, Meshed};
use http::{HeaderMap, HeaderValue, Method};
use inmesh_core::authorize::HttpView;
use inmesh_core::identify::Peer;
use inmesh_core::model::Draw;
use inmesh_core::testing::World;
use inmesh_pki::SpiffeId;
use tokio::runtime::Builder;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const REQUESTS: u16 = 1_000;

fn main() -> Fallible<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let world = World::new()?;
    let (mut bare, mut mesh, mut log) = runtime.block_on(async {
        let bare = Bare::connect(&world, 1).await?.remove(0);
        let mesh = Meshed::connect(&world, false).await?;
        let log = Meshed::connect(&world, true).await?;
        Fallible::Ok((bare, mesh, log))
    })?;
    println!("a request, both sides      allocations       bytes");
    // The first pass opens connections and fills pools.
    for pass in 0..2 {
        let count = |name: &str, run: &mut dyn FnMut() -> Fallible<()>| {
            let mut outcome = Ok(());
            let counted = measure(|| outcome = run());
            if pass > 0 {
                let each = |n: u64| n as f64 / f64::from(REQUESTS);
                let (n, bytes) = (each(counted.count_total), each(counted.bytes_total));
                println!("{name:<26} {n:>11.1} {bytes:>11.0}");
            }
            outcome
        };
        count("bare hyper and rustls", &mut || {
            runtime.block_on(async {
                for _ in 0..REQUESTS {
                    bare.send().await?;
                }
                Ok(())
            })
        })?;
        for (name, sender) in [("all layers", &mut mesh), ("and access log", &mut log)] {
            count(name, &mut || {
                runtime.block_on(async {
                    for _ in 0..REQUESTS {
                        sender.send().await?;
                    }
                    Ok(())
                })
            })?;
        }
    }
    decisions()
}

fn decisions() -> Fallible<()> {
    let snapshot = world(10_000, 100)?;
    let called = authorities(10_000, 1)?.remove(0);
    let peer: SpiffeId = "spiffe://example.org/ns/shop/sa/web".parse()?;
    let peer = Peer::Verified(peer);
    let mut headers = HeaderMap::new();
    headers.insert(TENANT, HeaderValue::from_static("stable"));
    let http = HttpView::new(&Method::POST, "/items/42", None, &headers);
    let mut draw = Draw::new(7);
    let mut went = None;
    let counted = measure(|| {
        for _ in 0..REQUESTS {
            went = decision(&snapshot, &called, &peer, http, &mut draw);
        }
    });
    assert_eq!(went, Some(15_006));
    let (n, bytes) = (counted.count_total, counted.bytes_total);
    println!("{REQUESTS} decisions             {n:>11} {bytes:>11}");
    Ok(())
}
