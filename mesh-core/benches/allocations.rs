//! How often one request allocates, on both sides together: bare hyper and rustls, and the mesh.
//!
//! Everything runs on one thread, since the counter counts by thread.

#[path = "support/echo.rs"]
mod echo;

use allocation_counter::measure;
use echo::{Bare, Meshed};
use inmesh_core::testing::World;
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
    Ok(())
}
