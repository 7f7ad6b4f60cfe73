//! Test data that others wrote, where there is any.

use std::io::Write;
use std::path::Path;

/// A JSON file under `$MESH_FIXTURES`; says how many rows are skipped without it.
pub(crate) fn json(
    path: &str,
    rows: usize,
) -> Result<Option<serde_json::Value>, Box<dyn std::error::Error>> {
    let Some(dir) = std::env::var_os("MESH_FIXTURES") else {
        // Past the test harness, which swallows what a passing test prints.
        let skipped = format!("skipped: {rows} rows of {path} (MESH_FIXTURES is not set)");
        writeln!(std::io::stderr(), "{skipped}")?;
        return Ok(None);
    };
    let file = std::fs::read(Path::new(&dir).join(path))?;
    Ok(Some(serde_json::from_slice(&file)?))
}
