//! The one place that asks the kernel: every question is a [`Call`] through one [`Kernel`].
//!
//! The live kernel is [`Live`]; tests put a table of answers in its place. A `Call` says what is
//! asked in our words; how it is laid out for the system call is [`bpf`]'s alone.

mod bpf;

use std::io;

pub(crate) use bpf::Live;

/// What can be asked of a kernel without leaving a trace in it.
pub(crate) trait Kernel {
    /// Asks for an object and gives it back at once; the error is an `errno`.
    fn call(&self, call: Call) -> Result<(), i32>;

    /// Reads a file of procfs or sysfs.
    fn read(&self, path: &str) -> io::Result<String>;

    /// Whether a file is there and may be opened.
    fn open(&self, path: &str) -> io::Result<()>;
}

/// A question to the `bpf` system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Create a map.
    Map(Map),
    /// Load `mov r0, 1; exit` as a program of this type, for this attach point.
    Program(Program),
    /// Does the system call exist at all?
    Syscall,
    /// Link a `sched_cls` program at tcx to an interface that cannot exist: a kernel with tcx
    /// misses the interface (`ENODEV`, answered here as success), an older one refuses the attach
    /// point.
    Tcx,
}

/// The map types that the datapath uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    Hash,
    LpmTrie,
    Ringbuf,
    SkStorage,
    SockHash,
}

/// The program types that the datapath uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    CgroupSkb,
    Connect4,
    Connect6,
    SchedCls,
    SkLookup,
    SkMsg,
    SockOps,
}
