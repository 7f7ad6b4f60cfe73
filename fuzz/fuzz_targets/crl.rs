//! Any bytes as a revocation list, in DER and in PEM: one that is accepted is complete, bounded, and
//! reads back the same.
#![no_main]

use inmesh_pki::Crl;
use inmesh_pki::crl::{MAX_CRL_ENTRIES, MAX_CRL_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lists = Crl::from_pem(data).unwrap_or_default();
    if let Ok(list) = Crl::from_der(data) {
        assert_eq!(list.der(), data);
        lists.push(list);
    }
    for list in lists {
        assert!(list.der().len() <= MAX_CRL_LEN && list.len() <= MAX_CRL_ENTRIES);
        assert_eq!(list.is_empty(), list.len() == 0);
        assert!(list.number().len() <= 2 * 20, "{list:?}");
        assert!(list.issuer().chars().count() <= 256);
        let text = list.to_pem();
        assert_eq!(Crl::from_pem(text.as_bytes()).as_deref(), Ok(&[list][..]));
    }
});
