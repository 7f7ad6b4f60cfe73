//! A canonical path is the same path: its readings are those of what came, and with both settings
//! nothing is left in it that could be read in a second way.
#![no_main]

use inmesh_core::authorize::{PathForm, Readings, canonical_path, spelling};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let strict = PathForm::default().merge_slashes(true).decode_slashes(true);
    for form in [PathForm::default(), strict] {
        let Ok(canonical) = form.canonical(path) else {
            continue;
        };
        assert_eq!(form.canonical(&canonical).as_deref(), Ok(&*canonical));
        if canonical == "*" {
            continue;
        }
        assert!(canonical.starts_with('/'));
        assert!(!canonical.contains('\0'));
        let readings = Readings::of(&canonical);
        let readings: Vec<_> = readings.iter().collect();
        assert_eq!(readings.first(), Some(&&*spelling(&canonical)));
        assert!(form != strict || readings.len() == 1, "{readings:?}");
        for reading in readings {
            assert!(reading.starts_with('/'), "{reading:?}");
            assert!(
                !reading.split('/').any(|part| matches!(part, "." | "..")),
                "{reading:?}"
            );
            assert_eq!(spelling(reading), reading);
        }
    }
    if let Ok(canonical) = canonical_path(path) {
        let (one, two) = (Readings::of(path), Readings::of(&canonical));
        assert_eq!(
            one.iter().collect::<Vec<_>>(),
            two.iter().collect::<Vec<_>>()
        );
    }
});
