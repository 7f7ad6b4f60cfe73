//! The annotations of an object that is staged: words in, words out. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The longest text of one in bytes. An API server takes 256 KiB of annotations of an object, all together.
const LONGEST: usize = 96 * 1_024;
/// The longest reason in characters.
const WHY: usize = 512;

/// A stage of an object, as its annotation says it.
///
/// ```
/// use inmesh_discovery::stage::{Stage, State};
/// let stage = Stage::new("a1b2", 10, 30, 4, serde_json::json!({"rules": []}));
/// let read = Stage::read(&stage.write()?)?;
/// assert_eq!((read.state, read.percent), (State::Staged, 10));
/// # Ok::<(), inmesh_discovery::stage::InvalidStage>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Stage {
    /// Its name: another for each.
    pub id: String,
    /// How far it is.
    pub state: State,
    /// The share of the members that has it, in percent.
    pub percent: u8,
    /// The namespace whose members these are; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// For how long it is compared, in seconds.
    pub seconds: u32,
    /// The generation of the object that it was staged on.
    pub generation: i64,
    /// What is staged; `None` once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Json>,
    /// Which members have it; `None` before they are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// How requests fared with it, and without.
    #[serde(default)]
    pub canary: Sided,
    /// The same without it.
    #[serde(default)]
    pub rest: Sided,
    /// Why it has ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// It is asked for.
    Staged,
    /// Some members have it.
    Running,
    /// All have it: it is the `spec` of the object.
    Promoted,
    /// None has it any more, because of how it fared.
    Reverted,
    /// None has it any more, because an operator has stopped it.
    Stopped,
}

/// Which members have what is staged, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Running {
    /// Those whose mark is no larger ([`mark`](super::mark)).
    pub bound: u64,
    /// Milliseconds since 1970.
    pub began: u64,
    /// How many members there were as they were chosen.
    pub members: u64,
    /// How many of these have it.
    pub chosen: u64,
}

/// How requests fared on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Sided {
    /// Members that report.
    pub members: u64,
    /// Their requests.
    pub requests: u64,
    /// How many of these failed.
    pub failed: u64,
}

/// A text that is no stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidStage(String);

// === impl Stage ===

impl Stage {
    /// A stage that is asked for.
    #[must_use]
    pub fn new(id: &str, percent: u8, seconds: u32, generation: i64, spec: Json) -> Self {
        Self {
            id: id.into(),
            state: State::Staged,
            percent,
            namespace: None,
            seconds,
            generation,
            spec: Some(spec),
            running: None,
            canary: Sided::default(),
            rest: Sided::default(),
            why: String::new(),
        }
    }

    /// The same for members of a namespace alone.
    #[must_use]
    pub fn of_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Reads the annotation.
    ///
    /// # Errors
    ///
    /// [`InvalidStage`] if it is invalid, or one of another version.
    pub fn read(text: &str) -> Result<Self, InvalidStage> {
        if text.len() > LONGEST {
            return Err(InvalidStage(format!("is longer than {LONGEST} bytes")));
        }
        let stage: Self = serde_json::from_str(text).map_err(|e| InvalidStage(e.to_string()))?;
        let named = (1..=64).contains(&stage.id.len())
            && stage.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !named {
            return Err(InvalidStage("its id is no name of a stage".into()));
        }
        // All of a namespace leave others to compare with.
        let most = if stage.namespace.is_some() { 100 } else { 90 };
        if !(1..=most).contains(&stage.percent) {
            return Err(InvalidStage(format!("its share is 1 to {most} %")));
        }
        if stage.lives() && stage.spec.is_none() {
            return Err(InvalidStage("it has no spec".into()));
        }
        Ok(stage)
    }

    /// Writes the annotation.
    ///
    /// # Errors
    ///
    /// [`InvalidStage`] if what is staged is too large for an annotation.
    pub fn write(&self) -> Result<String, InvalidStage> {
        let text = serde_json::to_string(self).map_err(|e| InvalidStage(e.to_string()))?;
        match text.len() {
            len if len > LONGEST => Err(InvalidStage(format!(
                "what is staged takes {len} bytes, of {LONGEST} that an annotation has room for"
            ))),
            _ => Ok(text),
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        matches!(self.state, State::Staged | State::Running)
    }

    /// The same once it has ended.
    #[must_use]
    pub fn ended(mut self, state: State, why: &str) -> Self {
        self.state = state;
        self.spec = None;
        self.why = why.chars().take(WHY).collect();
        self
    }
}

// === impl State ===

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staged => "staged",
            Self::Running => "running",
            Self::Promoted => "promoted",
            Self::Reverted => "reverted",
            Self::Stopped => "stopped",
        })
    }
}

// === impl Running ===

impl Running {
    /// Members whose mark is no larger than `bound` have it since `began` (milliseconds since 1970): `chosen` of
    /// `members`.
    #[must_use]
    pub fn new(bound: u64, began: u64, members: u64, chosen: u64) -> Self {
        Self {
            bound,
            began,
            members,
            chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_a_stage_is_read() {
        let stage = Stage::new("a1", 10, 30, 4, json!({"rules": []}));
        let with = |change: &dyn Fn(&mut Json)| {
            let mut value = serde_json::to_value(&stage).expect("it is JSON");
            change(&mut value);
            Stage::read(&value.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(with(&|_| {}), Ok(stage.clone()));
        type Edit<'a> = &'a dyn Fn(&mut Json);
        let table: [(&str, Edit<'_>); 7] = [
            ("no spec", &|v| {
                drop(v.as_object_mut().expect("an object").remove("spec"))
            }),
            ("no name", &|v| v["id"] = "".into()),
            ("no name", &|v| v["id"] = "a b".into()),
            ("1 to 90 %", &|v| v["percent"] = 0.into()),
            ("1 to 90 %", &|v| v["percent"] = 91.into()),
            ("1 to 100 %", &|v| {
                (v["percent"], v["namespace"]) = (101.into(), "shop".into());
            }),
            ("unknown field", &|v| v["later"] = 1.into()),
        ];
        for (why, edit) in table {
            let read = with(edit);
            assert!(
                read.as_ref().is_err_and(|e| e.contains(why)),
                "{why}: {read:?}"
            );
        }
        let large = Stage::new("a1", 10, 30, 4, "x".repeat(LONGEST).into());
        assert!(large.write().is_err());
        assert!(Stage::read(&" ".repeat(LONGEST + 1)).is_err());
        // What has ended needs no spec, and its reason is bounded.
        let ended = stage.ended(State::Reverted, &"y".repeat(9_999));
        assert_eq!(
            Stage::read(&ended.write().expect("it is small")),
            Ok(ended.clone())
        );
        assert_eq!((ended.why.len(), ended.lives()), (WHY, false));
    }
}
