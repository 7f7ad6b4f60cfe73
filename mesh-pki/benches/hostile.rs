//! What the worst chains cost that a stranger can present: 64 KiB, made to be expensive. Each is
//! refused, and the CPU time until then is printed.

#[path = "support/clock.rs"]
mod clock;
#[path = "support/pki.rs"]
mod pki;

use std::time::{Duration, UNIX_EPOCH};

use clock::cpu_time;
use inmesh_pki::svid::{MAX_PRESENTED_BYTES, Usage, validate};
use inmesh_pki::{CertificateDer, Crypto, IdentityState};
use pki::{Ca, Fallible};
use rcgen::SignatureAlgorithm;

/// Copies of `cert` that differ in the signature's last byte or two, until 64 KiB are full.
fn fill(chain: &mut Vec<CertificateDer<'static>>, cert: &CertificateDer<'static>, most: usize) {
    let mut room = MAX_PRESENTED_BYTES - chain.iter().map(|cert| cert.len()).sum::<usize>();
    for n in 0..u16::MAX {
        if room < cert.len() || usize::from(n) >= most {
            return;
        }
        room -= cert.len();
        let mut der = cert.to_vec();
        let at = der.len() - 2;
        der[at..].copy_from_slice(&n.to_be_bytes());
        chain.push(der.into());
    }
}

fn measure(name: &str, chain: &[CertificateDer<'_>], root: &Ca) -> Fallible<()> {
    let state = IdentityState::from_bundles(root.bundle()?.into());
    let crypto = Crypto::aws_lc_rs();
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut costs = Vec::new();
    let mut reason = String::new();
    for _ in 0..21 {
        let before = cpu_time();
        let verdict = validate(chain, &state, now, Usage::Client, &crypto);
        costs.push(cpu_time() - before);
        reason = match verdict {
            Ok(verified) => return Err(format!("{name}: {verified:?}").into()),
            Err(rejected) => rejected.as_str().to_owned(),
        };
    }
    costs.sort();
    println!(
        "{name:<58} {:>4} certificates {:>9.2} ms, at worst {:>7.2}  {reason}",
        chain.len(),
        costs[10].as_secs_f64() * 1e3,
        costs[20].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn main() -> Fallible<()> {
    let kinds: [(&str, &'static SignatureAlgorithm); 3] = [
        ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("P-521", &rcgen::PKCS_ECDSA_P521_SHA512),
    ];
    for (kind, algorithm) in kinds {
        let root = Ca::root("root", algorithm)?;
        let liar = Ca::root("root", algorithm)?;
        let leaf = Ca::root("maze", algorithm)?.leaf()?.0;
        // Every way round a maze of names, of which the last leads to the root.
        let inner = Ca::under("maze", &Ca::root("maze", algorithm)?)?.cert;
        let door = Ca::under("maze", &liar)?.cert;
        for most in [3, 14, usize::MAX] {
            let mut chain = vec![leaf.clone(), door.clone()];
            fill(&mut chain, &inner, most);
            measure(
                &format!("{kind}: a maze of names with one door"),
                &chain,
                &root,
            )?;
        }
        let mut chain = vec![leaf.clone()];
        fill(&mut chain, &door, usize::MAX);
        measure(&format!("{kind}: a maze with doors only"), &chain, &root)?;
        // Each stands between the leaf and the root, at every distance.
        let mut chain = vec![leaf];
        for name in ["one", "two", "three"] {
            let below = if name == "one" { "maze" } else { "one" };
            let step = Ca::under(below, &Ca::root(name, algorithm)?)?.cert;
            fill(&mut chain, &step, 20);
            let home = Ca::under(name, &liar)?.cert;
            fill(&mut chain, &home, 20);
        }
        measure(&format!("{kind}: many ways of every length"), &chain, &root)?;
    }
    Ok(())
}
