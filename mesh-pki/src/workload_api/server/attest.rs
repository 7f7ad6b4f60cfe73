//! What the kernel knows of a process in, the identities that it may have out. Pure.
//!
//! A selector is what the kernel vouches for and nothing else: no name, no argument and no label
//! that the process could have written itself. All parts of a selector must match, and a part that
//! is not known never does; a selector without parts cannot be made.

use crate::id::SpiffeId;

/// The longest hint (SPIFFE_Workload_API.md, section 8).
const MAX_HINT_LEN: usize = 1024;

/// What the kernel knows of the process at the other end of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Its effective user when it connected.
    pub uid: u32,
    /// Its effective group when it connected.
    pub gid: u32,
    /// Its process, as this process sees it; unknown across PID namespaces.
    pub pid: Option<u32>,
    /// Its control group, from the root of this process's view on; unknown if that could not be
    /// read while the process surely lived.
    pub cgroup: Option<String>,
}

/// What a process must be; all parts that are there must match, and at least one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<u32>,
    cgroup: Option<String>,
}

/// The processes that get an identity.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::workload_api::server::{Entry, Selector};
///
/// let selector = Selector::new(Some(1000), None, None, None)?;
/// let entry = Entry::new(selector, "spiffe://prod.example/ns/shop/sa/cart".parse()?)?;
/// assert_eq!(entry.hint(), "");
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    selector: Selector,
    id: SpiffeId,
    hint: String,
}

/// Why an entry, or a part of it, cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The control group is no absolute path without empty and dotted parts, or it is the root,
    /// which every process is below.
    #[error("{got:?} is no control group: write its path, for example /system.slice/cart.service")]
    Cgroup {
        /// What was given.
        got: String,
    },
    /// The selector would match every process.
    #[error("the selector has no uid, gid, pid or cgroup")]
    Empty,
    /// The hint is longer than clients have to accept.
    #[error("the hint has {got} bytes, at most {MAX_HINT_LEN} are allowed")]
    HintTooLong {
        /// How long it is.
        got: usize,
    },
    /// The ID names a trust domain and no workload.
    #[error("{id} has no path; only workloads have SVIDs")]
    NoPath {
        /// The ID.
        id: SpiffeId,
    },
}

/// The entries that `caller` matches, in their order; the first one's ID is its default.
#[must_use]
pub fn attest<'a>(caller: &Caller, entries: &'a [Entry]) -> Vec<&'a Entry> {
    entries
        .iter()
        .filter(|entry| entry.selector.matches(caller))
        .collect()
}

impl Caller {
    /// A process of this user and group of which no more is known.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            pid: None,
            cgroup: None,
        }
    }
}

impl Selector {
    /// A selector of these parts; `cgroup` matches that control group and all below it.
    ///
    /// # Errors
    ///
    /// [`EntryError::Empty`] without any part, [`EntryError::Cgroup`] for a path that is not a control group's.
    pub fn new(
        uid: Option<u32>,
        gid: Option<u32>,
        pid: Option<u32>,
        cgroup: Option<String>,
    ) -> Result<Self, EntryError> {
        if uid.is_none() && gid.is_none() && pid.is_none() && cgroup.is_none() {
            return Err(EntryError::Empty);
        }
        match cgroup {
            Some(got) if !is_below_root(&got) => Err(EntryError::Cgroup { got }),
            cgroup => Ok(Self {
                uid,
                gid,
                pid,
                cgroup,
            }),
        }
    }

    /// The user, group and process that it asks for; `None` is any.
    #[must_use]
    pub fn ids(&self) -> [Option<u32>; 3] {
        [self.uid, self.gid, self.pid]
    }

    /// The control group that it asks for, if any.
    #[must_use]
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup.as_deref()
    }

    fn matches(&self, caller: &Caller) -> bool {
        let below = |group: &String| {
            let own = caller.cgroup.as_deref();
            own.and_then(|own| own.strip_prefix(group.as_str()))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.uid.is_none_or(|uid| uid == caller.uid)
            && self.gid.is_none_or(|gid| gid == caller.gid)
            && self.pid.is_none_or(|pid| Some(pid) == caller.pid)
            && self.cgroup.as_ref().is_none_or(below)
    }
}

impl Entry {
    /// Gives `id` to each process that matches `selector`.
    ///
    /// # Errors
    ///
    /// [`EntryError::NoPath`] for the ID of a trust domain.
    pub fn new(selector: Selector, id: SpiffeId) -> Result<Self, EntryError> {
        if id.path().is_empty() {
            return Err(EntryError::NoPath { id });
        }
        Ok(Self {
            selector,
            id,
            hint: String::new(),
        })
    }

    /// The same with words for a workload that has several identities; of entries with the same hint
    /// only the first one's reaches a caller that has both.
    ///
    /// # Errors
    ///
    /// [`EntryError::HintTooLong`].
    pub fn with_hint(self, hint: impl Into<String>) -> Result<Self, EntryError> {
        let hint = hint.into();
        if hint.len() > MAX_HINT_LEN {
            return Err(EntryError::HintTooLong { got: hint.len() });
        }
        Ok(Self { hint, ..self })
    }

    /// The same without hint.
    pub(super) fn without_hint(self) -> Self {
        Self {
            hint: String::new(),
            ..self
        }
    }

    /// The processes that get it.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The ID that it gives.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its hint, which may be empty.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

/// The one control group in the text of `/proc/PID/cgroup` (cgroups(7)): that of the unified
/// hierarchy, else that of systemd's. A process outside our own view of the tree has none.
pub(in super::super) fn cgroup(text: &str) -> Option<String> {
    let path = |hierarchy: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (name, path) = rest.split_once(':')?;
            (name == hierarchy).then_some(path)
        })
    };
    path("")
        .or_else(|| path("name=systemd"))
        .filter(|path| *path == "/" || is_below_root(path))
        .map(str::to_owned)
}

fn is_below_root(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::id;

    fn caller() -> Caller {
        Caller {
            uid: 1000,
            gid: 100,
            pid: Some(42),
            cgroup: Some("/system.slice/cart.service".into()),
        }
    }

    fn selector(uid: u32, gid: u32, pid: u32, cgroup: &str) -> Result<Selector, EntryError> {
        let some = |n: u32| (n != 0).then_some(n);
        let cgroup = (!cgroup.is_empty()).then(|| cgroup.to_owned());
        Selector::new(some(uid), some(gid), some(pid), cgroup)
    }

    #[test]
    fn every_part_must_match() {
        let whole = "/system.slice/cart.service";
        for (uid, gid, pid, cgroup, expected) in [
            (1000, 0, 0, "", true),
            (1001, 0, 0, "", false),
            (0, 100, 0, "", true),
            (0, 101, 0, "", false),
            (0, 0, 42, "", true),
            (0, 0, 43, "", false),
            (0, 0, 0, whole, true),
            (0, 0, 0, "/system.slice", true),
            (0, 0, 0, "/system.slice/cart", false),
            (0, 0, 0, "/system.slice/cart.service/below", false),
            (1000, 100, 42, whole, true),
            (1000, 101, 42, whole, false),
            (1000, 100, 42, "/user.slice", false),
        ] {
            let selector = selector(uid, gid, pid, cgroup).unwrap();
            assert_eq!(selector.matches(&caller()), expected, "{selector:?}");
        }
        let unknown = Caller::new(1000, 100);
        assert!(!selector(1000, 0, 42, "").unwrap().matches(&unknown));
        assert!(!selector(1000, 0, 0, whole).unwrap().matches(&unknown));
    }

    #[test]
    fn a_selector_that_matches_everybody_cannot_be_made() {
        assert_eq!(selector(0, 0, 0, ""), Err(EntryError::Empty));
        for got in ["/", "a", "/a/", "//a", "/a/../b", "/.", "/a//b"] {
            let expected = EntryError::Cgroup { got: got.into() };
            assert_eq!(selector(1, 0, 0, got), Err(expected));
        }
        // User 0 is a user like any other, and not an absent one.
        let root = Selector::new(Some(0), None, None, None).unwrap();
        assert!(root.matches(&Caller::new(0, 5)) && !root.matches(&caller()));
    }

    #[test]
    fn entries_are_given_in_their_order() {
        let entry = |uid, name: &str| {
            let selector = Selector::new(Some(uid), None, None, None).unwrap();
            Entry::new(selector, id(name)).unwrap()
        };
        let entries = [
            entry(1000, "spiffe://td/b"),
            entry(7, "spiffe://td/c"),
            entry(1000, "spiffe://td/a"),
        ];
        let ids: Vec<_> = attest(&caller(), &entries)
            .iter()
            .map(|entry| entry.id().as_str())
            .collect();
        assert_eq!(ids, ["spiffe://td/b", "spiffe://td/a"]);

        let selector = Selector::new(Some(1), None, None, None).unwrap();
        let pathless = Entry::new(selector, id("spiffe://td"));
        assert!(matches!(pathless, Err(EntryError::NoPath { .. })));
        let long = entries[0].clone().with_hint("x".repeat(1025));
        assert_eq!(long, Err(EntryError::HintTooLong { got: 1025 }));
    }

    #[test]
    fn control_groups_are_read_from_proc() {
        for (text, expected) in [
            (
                "0::/system.slice/cart.service\n",
                Some("/system.slice/cart.service"),
            ),
            ("0::/\n", Some("/")),
            (
                "12:cpu,cpuacct:/other\n1:name=systemd:/system.slice/a.service\n",
                Some("/system.slice/a.service"),
            ),
            ("1:name=systemd:/old\n0::/new\n", Some("/new")),
            // Outside the namespace that we see: what is above it must not pass for what is in it.
            ("0::/../system.slice/cart.service\n", None),
            ("0::relative\n", None),
            ("4:memory:/a\n", None),
            ("rubbish", None),
            ("", None),
            ("0::/a:b\n", Some("/a:b")),
        ] {
            assert_eq!(cgroup(text).as_deref(), expected, "{text:?}");
        }
    }
}
