use rcgen::CertificateParams;
use webpki::EndEntityCert;

use super::path::chain_of;
use super::*;
use crate::svid::narrow::{PLAIN, SearchEnded, candidates};

/// What is left of `chain[1..]` between its leaf and the root `ca`, as positions in `chain`.
fn left(chain: &[CertificateDer<'_>], ca: &Ca) -> Result<Vec<usize>, SearchEnded> {
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let bundle = ca.bundle("td");
    let chosen = candidates(&leaf, &chain[1..], bundle.anchors(), &crypto())?;
    let at = |der| chain.iter().position(|cert| cert == der).unwrap();
    let mut positions: Vec<_> = chosen.iter().map(at).collect();
    positions.sort_unstable();
    Ok(positions)
}

#[test]
fn the_way_from_a_root_to_the_leaf_is_left() {
    let ca = Ca::new("root");
    assert_eq!(PLAIN, 4);
    for n in 0..=4 {
        let chain = chain_of(&ca, n);
        assert_eq!(left(&chain, &ca), Ok((1..=n).collect()), "{n}");
    }
    assert_eq!(left(&chain_of(&ca, 5), &ca), Err(SearchEnded::TooDeep));
    // The leaf of a root needs none of them, however deep they are.
    let mut direct = chain_of(&ca, 5);
    direct[0] = leaf(CART).signed_by(&ca);
    assert_eq!(left(&direct, &ca), Ok(vec![]));
}

#[test]
fn a_root_is_no_intermediate_unless_it_is_another_one() {
    let ca = Ca::new("root");
    let mut chain = chain_of(&ca, 1);
    chain.push(ca.cert.clone());
    assert_eq!(left(&chain, &ca), Ok(vec![1]));

    // The root's name with another key, signed by the root.
    let twin = authority("root").under(&ca);
    let chain = [leaf(CART).signed_by(&twin), twin.cert.clone()];
    assert_eq!(left(&chain, &ca), Ok(vec![1]));

    // The root's key under another name, signed by the root.
    let draft = authority("root");
    let key = || KeyPair::try_from(&draft.key.serialize_der()[..]).unwrap();
    let params = |name: &str| -> CertificateParams { authority(name).params };
    let same = |name: &str| Draft {
        params: params(name),
        key: key(),
    };
    let ca = same("root").root();
    let renamed = same("renamed").under(&ca);
    let chain = [leaf(CART).signed_by(&renamed), renamed.cert.clone()];
    assert_eq!(left(&chain, &ca), Ok(vec![1]));
}

#[test]
fn what_no_root_signed_is_left_out() {
    let (ca, liar) = (Ca::new("root"), Ca::new("root"));
    let mut chain = chain_of(&ca, 2);
    chain.push(authority("middle 0").under(&liar).cert);
    chain.push(chain[1].clone());
    chain.push(vec![0x30, 0].into());
    assert_eq!(left(&chain, &ca), Ok(vec![1, 2]));
    assert_eq!(left(&chain, &Ca::new("root")), Ok(vec![]));
    assert_eq!(left(&chain, &Ca::new("elsewhere")), Ok(vec![]));
}
