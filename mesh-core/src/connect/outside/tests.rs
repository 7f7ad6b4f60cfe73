//! What is found of a file of roots, look by look.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn root() -> std::result::Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?.pem())
}

/// The table of an edit: what stands there, and whether connections can be made.
#[test]
fn what_cannot_be_used_keeps_the_last_good_roots() -> Result {
    let (one, two) = (root()?, root()?);
    let half = one[..one.len() / 2].to_owned();
    let cut = format!("{one}{}", &two[..two.len() / 2]);
    let outside = OutsideRoots::new(crate::testing::World::new()?.crypto().clone(), Arc::new([]));
    let roots = (Roots::File("ca.pem".into()), Arc::default());
    let start = Instant::now();
    let mut seen: Option<Connectors> = None;
    for (second, found, changes) in [
        (0, Ok(String::new()), false),
        (1, Err("no such file".to_owned()), false),
        (2, Ok(half.clone()), false),
        (3, Ok(one.clone()), true),
        (4, Ok(one.clone()), false),
        (5, Ok(String::new()), false),
        (6, Ok(half), false),
        (7, Ok(cut), false),
        (8, Err("permission denied".to_owned()), false),
        (9, Ok("garbage".to_owned()), false),
        (10, Ok(two.clone()), true),
        (11, Ok(format!("{one}{two}")), true),
    ] {
        let now = start + FRESH * second;
        assert!(outside.fresh(&roots, now).is_none(), "{second}");
        let made = outside.take(&roots, found.map(String::into_bytes), now);
        match (&made, &seen) {
            (Ok(made), before) => {
                let same = before
                    .as_ref()
                    .is_some_and(|b| Arc::ptr_eq(b.http2.config(), made.http2.config()));
                assert_eq!(same, !changes, "{second}");
                seen = Some(made.clone());
            }
            (Err(why), None) => assert!(!changes && why.contains("ca.pem"), "{second}: {why}"),
            (Err(why), Some(_)) => panic!("{second}: {why}"),
        }
        // Within the second it is not looked at again.
        let again = outside.fresh(&roots, now + FRESH / 2);
        assert_eq!(
            again.map(|known| known.is_ok()),
            Some(made.is_ok()),
            "{second}"
        );
    }
    assert!(seen.is_some());
    Ok(())
}

#[test]
fn the_files_that_are_remembered_are_bounded() -> Result {
    let outside = OutsideRoots::new(crate::testing::World::new()?.crypto().clone(), Arc::new([]));
    let now = Instant::now();
    for n in 0..REMEMBERED + 10 {
        let roots = (Roots::File(format!("{n}.pem").into()), Arc::default());
        assert!(outside.take(&roots, Ok(Vec::new()), now).is_err());
    }
    assert_eq!(outside.known.lock().unwrap().len(), REMEMBERED);
    // Roots of documents make place for those of the documents that came after.
    let outside = OutsideRoots::new(crate::testing::World::new()?.crypto().clone(), Arc::new([]));
    let of = |n: usize| (Roots::Unusable(format!("{n}").into()), Arc::default());
    for n in 0..REMEMBERED + 10 {
        assert!(outside.take(&of(n), Ok(Vec::new()), now).is_err());
    }
    let known = outside.known.lock().unwrap();
    assert!(known.len() <= REMEMBERED && known.contains_key(&of(REMEMBERED + 9)));
    Ok(())
}

#[test]
fn a_file_is_read_within_its_bound() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ca.pem").display().to_string();
    assert!(read(&path).is_err());
    std::fs::write(&path, "x")?;
    assert_eq!(read(&path)?, b"x");
    File::create(&path)?.set_len(FILE_BYTES + 1)?;
    assert!(read(&path).is_err());
    Ok(())
}
