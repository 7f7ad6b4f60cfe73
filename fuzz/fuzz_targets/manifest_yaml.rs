//! Documents: any text is read without a panic, and what is read applies to a snapshot.
#![no_main]

use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{SourceId, Workload};
use inmesh_core::snapshot::{Change, Settings, Snapshot};
use inmesh_discovery::manifest::{Defaults, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let workload = Workload::new("shop", "cart", "cart").expect("the names are valid");
    let defaults = Defaults::new(workload.namespace.clone());
    let Ok(parsed) = parse("fuzz.yaml", text, &defaults) else {
        return;
    };
    let ops = parsed.entries.into_iter().map(|entry| entry.op).collect();
    let settings = Settings::new(workload, DefaultAction::Deny);
    let snapshot = Snapshot::new(settings);
    let next = snapshot.apply(Change::replace(SourceId::new("fuzz"), ops));
    // Whatever the document holds, its status can be shown.
    drop(next.status());
});
