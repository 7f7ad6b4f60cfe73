//! From a kernel's answers to a report; pure but for the kernel it is handed.

use std::io;

use super::report::{Feature, Finding, Report, Status, UnprivilegedBpf};
use crate::sys::{Call, Kernel, Map, Program};

pub(super) fn ask(kernel: &impl Kernel) -> Report {
    let capabilities = Capabilities::read(kernel);
    let mounts = kernel.read("/proc/self/mountinfo");
    let findings = Feature::ALL
        .iter()
        .copied()
        .map(|feature| match question(feature) {
            Question::Call(call) => {
                Finding::new(feature, answer(kernel.call(call), call, &capabilities))
            }
            Question::Capability(bit) => Finding::new(feature, capabilities.status(bit)),
            Question::File(path) => Finding::new(feature, opened(kernel.open(path), path)),
            Question::Mount(kind) => {
                let (status, detail) = mounted(&mounts, kind);
                Finding {
                    detail,
                    ..Finding::new(feature, status)
                }
            }
        })
        .collect();
    Report {
        kernel: kernel
            .read("/proc/sys/kernel/osrelease")
            .ok()
            .map(|release| release.trim().to_owned())
            .filter(|release| !release.is_empty()),
        unprivileged_bpf: unprivileged(kernel),
        findings,
    }
}

/// How a feature is asked for.
enum Question {
    Call(Call),
    /// A bit of the effective set.
    Capability(u32),
    File(&'static str),
    /// A type of file system.
    Mount(&'static str),
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

fn question(feature: Feature) -> Question {
    match feature {
        Feature::BpfSyscall => Question::Call(Call::Syscall),
        Feature::Bpffs => Question::Mount("bpf"),
        Feature::CapBpf => Question::Capability(CAP_BPF),
        Feature::CapNetAdmin => Question::Capability(CAP_NET_ADMIN),
        Feature::CapSysAdmin => Question::Capability(CAP_SYS_ADMIN),
        Feature::Cgroup2 => Question::Mount("cgroup2"),
        Feature::KernelBtf => Question::File("/sys/kernel/btf/vmlinux"),
        Feature::MapHash => Question::Call(Call::Map(Map::Hash)),
        Feature::MapLpmTrie => Question::Call(Call::Map(Map::LpmTrie)),
        Feature::MapRingbuf => Question::Call(Call::Map(Map::Ringbuf)),
        Feature::MapSkStorage => Question::Call(Call::Map(Map::SkStorage)),
        Feature::MapSockHash => Question::Call(Call::Map(Map::SockHash)),
        Feature::ProgramCgroupSkb => Question::Call(Call::Program(Program::CgroupSkb)),
        Feature::ProgramConnect4 => Question::Call(Call::Program(Program::Connect4)),
        Feature::ProgramConnect6 => Question::Call(Call::Program(Program::Connect6)),
        Feature::ProgramSchedCls => Question::Call(Call::Program(Program::SchedCls)),
        Feature::ProgramSkLookup => Question::Call(Call::Program(Program::SkLookup)),
        Feature::ProgramSkMsg => Question::Call(Call::Program(Program::SkMsg)),
        Feature::ProgramSockOps => Question::Call(Call::Program(Program::SockOps)),
        Feature::Tcx => Question::Call(Call::Tcx),
    }
}

// === answers of the bpf system call ===

/// What the kernel says inside for "not supported"; it leaks to user space from some commands.
const ENOTSUPP: i32 = 524;

fn answer(result: Result<(), i32>, call: Call, capabilities: &Capabilities) -> Status {
    let Err(errno) = result else {
        return Status::Available;
    };
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::EPERM | libc::EACCES => Status::Unknown {
            why: capabilities.refused(call, &error),
        },
        libc::ENOSYS => Status::Missing {
            why: "this kernel has no bpf system call".into(),
        },
        libc::E2BIG => Status::Missing {
            why: "this kernel is too old for the question".into(),
        },
        libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => Status::Missing {
            why: format!("this kernel refuses it: {error}"),
        },
        ENOTSUPP => Status::Missing {
            why: "this kernel was built without it".into(),
        },
        _ => Status::Unknown {
            why: format!("the kernel could not answer: {error}"),
        },
    }
}

/// The effective capabilities of this process, or why they could not be read.
struct Capabilities(Result<u64, String>);

impl Capabilities {
    fn read(kernel: &impl Kernel) -> Self {
        const PATH: &str = "/proc/self/status";
        let set = kernel
            .read(PATH)
            .map_err(|error| format!("{PATH}: {error}"))
            .and_then(|status| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix("CapEff:"))
                    .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
                    .ok_or_else(|| format!("{PATH} has no readable CapEff"))
            });
        Self(set)
    }

    fn has(&self, bit: u32) -> bool {
        self.0.as_ref().is_ok_and(|set| set & (1 << bit) != 0)
    }

    fn status(&self, bit: u32) -> Status {
        match &self.0 {
            Ok(_) if self.has(bit) => Status::Available,
            Ok(_) if self.has(CAP_SYS_ADMIN) => Status::Missing {
                why: "not in CapEff, but CAP_SYS_ADMIN is".into(),
            },
            Ok(_) => Status::Missing {
                why: "not in CapEff".into(),
            },
            Err(why) => Status::Unknown { why: why.clone() },
        }
    }

    /// Why the kernel refused to be asked, as far as it is known.
    fn refused(&self, call: Call, error: &io::Error) -> String {
        let needs_net = match call {
            Call::Syscall
            | Call::Map(Map::Hash | Map::LpmTrie | Map::Ringbuf | Map::SkStorage)
            | Call::Program(Program::CgroupSkb | Program::SkLookup) => false,
            Call::Map(Map::SockHash) | Call::Program(_) | Call::Tcx => true,
        };
        let sys = self.has(CAP_SYS_ADMIN);
        let bpf = sys || self.has(CAP_BPF);
        let net = sys || self.has(CAP_NET_ADMIN);
        match (bpf, net || !needs_net) {
            (true, true) => {
                format!(
                    "{error} despite the capabilities: lockdown, seccomp, a container or RLIMIT_MEMLOCK"
                )
            }
            (false, true) => format!("{error}: needs CAP_BPF"),
            (true, false) => format!("{error}: needs CAP_NET_ADMIN"),
            (false, false) => format!("{error}: needs CAP_BPF and CAP_NET_ADMIN"),
        }
    }
}

// === answers of files ===

fn opened(result: io::Result<()>, path: &str) -> Status {
    match result {
        Ok(()) => Status::Available,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Status::Missing {
            why: format!("no {path}"),
        },
        Err(error) => Status::Unknown {
            why: format!("{path}: {error}"),
        },
    }
}

/// Looks for a mounted file system of this type; its mount point is the detail.
fn mounted(mounts: &io::Result<String>, kind: &str) -> (Status, Option<String>) {
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(error) => {
            let why = format!("/proc/self/mountinfo: {error}");
            return (Status::Unknown { why }, None);
        }
    };
    // id parent major:minor root POINT options... - TYPE source options; see proc(5).
    let point = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_kind = filesystem.split(' ').next() == Some(kind);
        is_kind.then(|| mount.split(' ').nth(4)).flatten()
    });
    match point {
        Some(point) => (Status::Available, Some(format!("at {point}"))),
        None => (
            Status::Missing {
                why: format!("no {kind} file system is mounted"),
            },
            None,
        ),
    }
}

fn unprivileged(kernel: &impl Kernel) -> UnprivilegedBpf {
    let setting = kernel
        .read("/proc/sys/kernel/unprivileged_bpf_disabled")
        .unwrap_or_default();
    match setting.trim() {
        "0" => UnprivilegedBpf::Allowed,
        "1" => UnprivilegedBpf::DisabledUntilBoot,
        "2" => UnprivilegedBpf::Disabled,
        _ => UnprivilegedBpf::Unknown,
    }
}
