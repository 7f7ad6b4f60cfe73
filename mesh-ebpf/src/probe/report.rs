//! What the probe found, for people (`Display`) and machines (`Serialize`).

use std::fmt;

use serde::{Serialize, Serializer};

/// What [`probe`](crate::probe()) found: the kernel, and one [`Finding`] for each [`Feature`].
///
/// `Display` prints a line for each finding; `Serialize` gives the same to machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub(super) kernel: Option<String>,
    pub(super) unprivileged_bpf: UnprivilegedBpf,
    pub(super) findings: Vec<Finding>,
}

/// One feature, whether it is there, and what follows if not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub(super) feature: Feature,
    #[serde(flatten)]
    pub(super) status: Status,
    pub(super) detail: Option<String>,
    pub(super) follows: Option<&'static str>,
}

/// Whether a feature is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The kernel did it.
    Available,
    /// The kernel cannot do it.
    Missing {
        /// How that showed.
        why: String,
    },
    /// It could not be asked.
    Unknown {
        /// What stood in the way, such as a missing capability.
        why: String,
    },
}

/// Whether processes without privileges may use `bpf(2)` (`kernel.unprivileged_bpf_disabled`).
///
/// This is complete: the kernel has these three values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the kernel has these three values")]
pub enum UnprivilegedBpf {
    /// Every process may load simple programs.
    Allowed,
    /// It takes CAP_BPF; an administrator may change that.
    Disabled,
    /// It takes CAP_BPF until the next boot.
    DisabledUntilBoot,
    /// The setting could not be read.
    Unknown,
}

/// What the kernel datapath builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// The `bpf` system call.
    BpfSyscall,
    /// A mounted file system for pinned maps and links.
    Bpffs,
    /// The capability to load programs and create maps.
    CapBpf,
    /// The capability to attach to networking.
    CapNetAdmin,
    /// The capability that stands in for the other two on old kernels.
    CapSysAdmin,
    /// A mounted cgroup v2 hierarchy, where programs are attached to workloads.
    Cgroup2,
    /// The kernel's own type information at `/sys/kernel/btf/vmlinux`.
    KernelBtf,
    /// Map type `hash`.
    MapHash,
    /// Map type `lpm_trie`.
    MapLpmTrie,
    /// Map type `ringbuf`.
    MapRingbuf,
    /// Map type `sk_storage`.
    MapSkStorage,
    /// Map type `sockhash`.
    MapSockHash,
    /// Program type `cgroup_skb`.
    ProgramCgroupSkb,
    /// Program type `cgroup_sock_addr`, attach point `connect4`.
    ProgramConnect4,
    /// Program type `cgroup_sock_addr`, attach point `connect6`.
    ProgramConnect6,
    /// Program type `sched_cls`.
    ProgramSchedCls,
    /// Program type `sk_lookup`.
    ProgramSkLookup,
    /// Program type `sk_msg`.
    ProgramSkMsg,
    /// Program type `sock_ops`.
    ProgramSockOps,
    /// The attach point `tcx` for `sched_cls` programs.
    Tcx,
}

// === impl Report ===

impl Report {
    /// The release of the running kernel, such as `6.18.44`, where it could be read.
    #[must_use]
    pub fn kernel(&self) -> Option<&str> {
        self.kernel.as_deref()
    }

    /// Whether processes without privileges may use `bpf(2)`.
    #[must_use]
    pub fn unprivileged_bpf(&self) -> UnprivilegedBpf {
        self.unprivileged_bpf
    }

    /// One finding for each of [`Feature::ALL`], in that order.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether `feature` was found; neither missing nor unknown counts.
    ///
    /// ```
    /// let report = inmesh_ebpf::probe();
    /// if !report.has(inmesh_ebpf::Feature::Cgroup2) {
    ///     println!("no cgroup v2: workloads cannot be intercepted");
    /// }
    /// ```
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.feature == feature && finding.status == Status::Available)
    }

    #[cfg(any(test, not(target_os = "linux")))]
    pub(super) fn not_linux() -> Self {
        let missing = || Status::Missing {
            why: "not Linux".to_owned(),
        };
        Self {
            kernel: None,
            unprivileged_bpf: UnprivilegedBpf::Unknown,
            findings: Feature::ALL
                .iter()
                .map(|feature| Finding::new(*feature, missing()))
                .collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel().unwrap_or("of unknown release");
        writeln!(
            f,
            "kernel {kernel}, bpf for the unprivileged: {}",
            self.unprivileged_bpf
        )?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        Ok(())
    }
}

// === impl Finding ===

impl Finding {
    pub(super) fn new(feature: Feature, status: Status) -> Self {
        let follows = (status != Status::Available).then(|| feature.follows());
        Self {
            feature,
            status,
            detail: None,
            follows,
        }
    }

    /// The feature that was asked for.
    #[must_use]
    pub fn feature(&self) -> Feature {
        self.feature
    }

    /// Whether it is there.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// More about a feature that is there, such as where it is mounted.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What the mesh cannot do, or does in another way, while the feature is missing or unknown.
    #[must_use]
    pub fn follows(&self) -> Option<&'static str> {
        self.follows
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, why) = match &self.status {
            Status::Available => ("available", self.detail()),
            Status::Missing { why } => ("missing", Some(why.as_str())),
            Status::Unknown { why } => ("unknown", Some(why.as_str())),
        };
        write!(f, "{word:<9}  {}", self.feature.name())?;
        if let Some(why) = why {
            write!(f, ": {why}")?;
        }
        if let Some(follows) = self.follows {
            write!(f, "; without it, {follows}")?;
        }
        Ok(())
    }
}

// === impl UnprivilegedBpf ===

impl fmt::Display for UnprivilegedBpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Disabled => "disabled",
            Self::DisabledUntilBoot => "disabled until the next boot",
            Self::Unknown => "unknown",
        })
    }
}

// === impl Feature ===

impl Feature {
    /// Every feature, in the order of a [`Report`]: what a machine must allow, what must be
    /// mounted, programs, maps.
    pub const ALL: &'static [Self] = &[
        Self::BpfSyscall,
        Self::CapBpf,
        Self::CapNetAdmin,
        Self::CapSysAdmin,
        Self::Cgroup2,
        Self::Bpffs,
        Self::KernelBtf,
        Self::ProgramConnect4,
        Self::ProgramConnect6,
        Self::ProgramSockOps,
        Self::ProgramSkLookup,
        Self::ProgramCgroupSkb,
        Self::ProgramSkMsg,
        Self::ProgramSchedCls,
        Self::Tcx,
        Self::MapHash,
        Self::MapLpmTrie,
        Self::MapRingbuf,
        Self::MapSkStorage,
        Self::MapSockHash,
    ];

    /// A stable name for machines and people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BpfSyscall => "bpf_syscall",
            Self::Bpffs => "bpffs",
            Self::CapBpf => "cap_bpf",
            Self::CapNetAdmin => "cap_net_admin",
            Self::CapSysAdmin => "cap_sys_admin",
            Self::Cgroup2 => "cgroup2",
            Self::KernelBtf => "kernel_btf",
            Self::MapHash => "map_hash",
            Self::MapLpmTrie => "map_lpm_trie",
            Self::MapRingbuf => "map_ringbuf",
            Self::MapSkStorage => "map_sk_storage",
            Self::MapSockHash => "map_sockhash",
            Self::ProgramCgroupSkb => "program_cgroup_skb",
            Self::ProgramConnect4 => "program_cgroup_connect4",
            Self::ProgramConnect6 => "program_cgroup_connect6",
            Self::ProgramSchedCls => "program_sched_cls",
            Self::ProgramSkLookup => "program_sk_lookup",
            Self::ProgramSkMsg => "program_sk_msg",
            Self::ProgramSockOps => "program_sock_ops",
            Self::Tcx => "tcx",
        }
    }

    /// What follows while the feature is missing.
    fn follows(self) -> &'static str {
        match self {
            Self::BpfSyscall => "there is no kernel datapath: use explicit listeners",
            Self::Bpffs => "links and maps cannot outlive the agent: a restart re-attaches",
            Self::CapBpf => "programs and maps need CAP_SYS_ADMIN instead",
            Self::CapNetAdmin => "nothing can be attached to networking",
            Self::CapSysAdmin => "CAP_BPF and CAP_NET_ADMIN must both be given",
            Self::Cgroup2 => "outbound connections of workloads cannot be intercepted",
            Self::KernelBtf => "socket storage and kernel-typed programs are out of reach",
            Self::MapHash => "there is no kernel datapath: use explicit listeners",
            Self::MapLpmTrie => "rules by address range stay in user space",
            Self::MapRingbuf => "flow events of the kernel are not reported",
            Self::MapSkStorage => "per-socket state needs a hash map and its cleaning",
            Self::MapSockHash => "no short cut between sockets of one machine",
            Self::ProgramCgroupSkb => "packets of workloads are not filtered by address",
            Self::ProgramConnect4 => "IPv4 connections are not intercepted or balanced at connect",
            Self::ProgramConnect6 => "IPv6 connections are not intercepted or balanced at connect",
            Self::ProgramSchedCls => "nothing can be done to packets on an interface",
            Self::ProgramSkLookup => {
                "inbound connections reach the agent by explicit listeners only"
            }
            Self::ProgramSkMsg => "no short cut between sockets of one machine",
            Self::ProgramSockOps => "the original destination is looked up by conntrack only",
            Self::Tcx => "interface programs need a clsact queueing discipline",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Feature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
