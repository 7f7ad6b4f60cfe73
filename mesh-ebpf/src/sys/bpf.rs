//! The live kernel: `bpf(2)` by hand.
//!
//! Each attribute struct is the prefix of the kernel's `union bpf_attr` for its command, up to the
//! last field used here: a kernel that knows fewer fields answers `E2BIG`, one that knows more
//! takes the rest as zero.
#![expect(unsafe_code, reason = "the bpf system call has no safe wrapper in std")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Call, Kernel, Map, Program};

/// The kernel that this process runs on.
pub(crate) struct Live;

impl Kernel for Live {
    fn call(&self, call: Call) -> Result<(), i32> {
        match call {
            Call::Map(Map::SkStorage) => {
                let btf = load_btf()?;
                create_map(Map::SkStorage, btf.as_raw_fd().cast_unsigned()).map(drop)
            }
            Call::Map(map) => create_map(map, 0).map(drop),
            Call::Program(program) => load_program(program).map(drop),
            Call::Syscall => match bpf(COMMAND_NONE, &mut [0_u64; 1]) {
                // The system call is there and does not know the command.
                Err(libc::EINVAL) | Ok(_) => Ok(()),
                Err(errno) => Err(errno),
            },
            Call::Tcx => {
                let program = load_program(Program::SchedCls)?;
                let mut attr = LinkCreateAttr {
                    prog_fd: program.as_raw_fd().cast_unsigned(),
                    target_ifindex: u32::MAX,
                    attach_type: ATTACH_TCX_INGRESS,
                    flags: 0,
                };
                match bpf(COMMAND_LINK_CREATE, &mut attr) {
                    Err(libc::ENODEV) | Ok(_) => Ok(()),
                    Err(errno) => Err(errno),
                }
            }
        }
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn open(&self, path: &str) -> io::Result<()> {
        File::open(path).map(drop)
    }
}

// === the kernel's numbers (include/uapi/linux/bpf.h) ===

const COMMAND_MAP_CREATE: u32 = 0;
const COMMAND_PROG_LOAD: u32 = 5;
const COMMAND_BTF_LOAD: u32 = 18;
const COMMAND_LINK_CREATE: u32 = 28;
/// A command that no kernel has.
const COMMAND_NONE: u32 = i32::MAX.cast_unsigned();

const ATTACH_TCX_INGRESS: u32 = 46;

const FLAG_NO_PREALLOC: u32 = 1;

#[repr(C)]
struct MapCreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

#[repr(C)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct BtfLoadAttr {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
}

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Types that may be handed to the kernel as they lie in memory: `repr(C)` structs of integers
/// without padding.
trait Attr {}
impl Attr for [u64; 1] {}
impl Attr for BtfLoadAttr {}
impl Attr for LinkCreateAttr {}
impl Attr for MapCreateAttr {}
impl Attr for ProgLoadAttr {}

const _: () = {
    assert!(size_of::<BtfLoadAttr>() == 24);
    assert!(size_of::<LinkCreateAttr>() == 16);
    assert!(size_of::<MapCreateAttr>() == 60);
    assert!(size_of::<ProgLoadAttr>() == 72);
};

// === what is asked ===

fn create_map(map: Map, btf_fd: u32) -> Result<OwnedFd, i32> {
    // (type, key size, value size, entries, flags)
    let (map_type, key_size, value_size, max_entries, map_flags) = match map {
        Map::Hash => (1, 4, 4, 1, 0),
        Map::LpmTrie => (11, 8, 4, 1, FLAG_NO_PREALLOC),
        Map::SockHash => (18, 4, 4, 1, 0),
        Map::SkStorage => (24, 4, 4, 0, FLAG_NO_PREALLOC),
        // A power of two, and a multiple of the page size on 64 KiB pages too.
        Map::Ringbuf => (27, 0, 0, 64 * 1024, 0),
    };
    let typed = u32::from(btf_fd != 0);
    bpf(
        COMMAND_MAP_CREATE,
        &mut MapCreateAttr {
            map_type,
            key_size,
            value_size,
            max_entries,
            map_flags,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: [0; 16],
            map_ifindex: 0,
            btf_fd,
            btf_key_type_id: typed,
            btf_value_type_id: typed,
        },
    )
}

fn load_program(program: Program) -> Result<OwnedFd, i32> {
    // (type, expected attach type; 0 where the kernel wants none at load)
    let (prog_type, expected_attach_type) = match program {
        Program::SchedCls => (3, 0),
        Program::CgroupSkb => (8, 0),
        Program::SockOps => (13, 0),
        Program::SkMsg => (16, 0),
        Program::Connect4 => (18, 10),
        Program::Connect6 => (18, 11),
        Program::SkLookup => (30, 36),
    };
    // r0 = 1; exit. Every type here takes 1 as "go on". The immediate follows the native order.
    let code: [u64; 2] = [instruction(0xb7, 1), instruction(0x95, 0)];
    let license = c"Dual MIT/GPL";
    let mut attr = ProgLoadAttr {
        prog_type,
        insn_cnt: 2,
        insns: code.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type,
    };
    // The verifier gives way to a signal with EAGAIN; five tries, as libbpf does.
    let mut answer = bpf(COMMAND_PROG_LOAD, &mut attr);
    for _ in 0..4 {
        if !matches!(answer, Err(libc::EAGAIN)) {
            break;
        }
        answer = bpf(COMMAND_PROG_LOAD, &mut attr);
    }
    answer
}

/// `struct bpf_insn` with both registers 0: opcode, registers, offset, immediate.
fn instruction(opcode: u8, immediate: i32) -> u64 {
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([opcode, 0, 0, 0, a, b, c, d])
}

/// Loads the smallest useful BTF: one 32-bit signed integer, type 1. Socket storage wants its key
/// and value described.
fn load_btf() -> Result<OwnedFd, i32> {
    const STRINGS: &[u8] = b"\0int\0";
    // struct btf_type: name at 1, kind INT, size 4; then its encoding: signed, 32 bits.
    let types: [u32; 4] = [1, 1 << 24, 4, (1 << 24) | 32];
    let types_length = 16_u32;
    let strings_length = 5_u32;

    let mut blob = Vec::with_capacity(45);
    blob.extend(0xeb9f_u16.to_ne_bytes()); // magic
    blob.extend([1, 0]); // version, flags
    for word in [24, 0, types_length, types_length, strings_length] {
        blob.extend(word.to_ne_bytes());
    }
    blob.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
    blob.extend(STRINGS);
    bpf(
        COMMAND_BTF_LOAD,
        &mut BtfLoadAttr {
            btf: blob.as_ptr().addr() as u64,
            btf_log_buf: 0,
            btf_size: 24 + types_length + strings_length,
            btf_log_size: 0,
        },
    )
}

/// The system call. The object it makes is closed when the answer is dropped.
fn bpf<A: Attr>(command: u32, attr: &mut A) -> Result<OwnedFd, i32> {
    // SAFETY: `attr` is an exclusive reference to a plain struct of integers without padding, and
    // the size passed is its own. The kernel reads and writes within that size only. Addresses in
    // it point to buffers that their functions keep alive across this call, and which the kernel
    // only reads: no log buffer is ever given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: every command used here that succeeds returns a new file descriptor, which
            // no other code knows.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)),
    }
}
