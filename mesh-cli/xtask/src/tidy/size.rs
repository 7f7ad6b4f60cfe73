//! File budget: aim at 100 to 300 lines, explain yourself at 600, split at 1,000.

use super::source::Source;
use super::violation::Violation;

const NOTE: usize = 600;
const ERROR: usize = 1_000;

pub(super) fn check(source: &Source<'_>, is_test: bool) -> Option<Violation> {
    const WHY: &str = "a file is read in one sitting";
    let lines = source.text().lines().count();
    let what = format!("{lines} lines");
    if is_test || source.is_generated() || lines <= NOTE {
        None
    } else if lines <= ERROR {
        let todo = "say at its top why it is one piece, or split it";
        Some(Violation::note(source.path(), lines, what, WHY, todo))
    } else {
        let todo = "split it by state or by stage; tests go to tests.rs";
        Some(Violation::error(source.path(), lines, what, WHY, todo))
    }
}
