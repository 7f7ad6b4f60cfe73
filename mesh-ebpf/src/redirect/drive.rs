//! The socket to the kernel.

use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::answer::{Answer, answers, attribute, text};
use super::applied::Applied;
use super::error::RedirectError;
use super::message::{self, BEGIN, Batch, NEW_RULE};

/// A kernel that loads its modules first answers in a second or so; nothing waits for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel writes at once is 32 KiB at most.
const ANSWER: usize = 64 * 1024;

/// Sends a transaction and waits for its outcome.
pub(super) fn send(batch: Batch) -> Result<(), RedirectError> {
    let socket = open()?;
    write(&socket, &batch.bytes)?;
    let last = batch.what.len().saturating_sub(1);
    loop {
        let bytes = read_once(&socket)?;
        for answer in answers(&bytes).ok_or_else(malformed)? {
            let Answer::Outcome { sequence, errno } = answer else {
                continue;
            };
            let at = usize::try_from(sequence).unwrap_or(usize::MAX);
            match errno {
                0 if at == last => return Ok(()),
                0 => {}
                errno => {
                    let what = batch.what.get(at).cloned().unwrap_or_default();
                    return Err(refused(sequence, what, errno));
                }
            }
        }
    }
}

/// The rules of a table, if there is one.
pub(super) fn read(table: &str) -> Result<Option<Applied>, RedirectError> {
    let socket = open()?;
    write(&socket, &message::get_table(table))?;
    let bytes = read_once(&socket)?;
    for answer in answers(&bytes).ok_or_else(malformed)? {
        match answer {
            Answer::Outcome {
                errno: libc::ENOENT,
                ..
            } => return Ok(None),
            Answer::Outcome { errno, .. } if errno != 0 => {
                return Err(refused(BEGIN, format!("to read the table {table}"), errno));
            }
            _ => {}
        }
    }
    write(&socket, &message::get_rules(table))?;
    let mut rules = Applied::default();
    loop {
        let bytes = read_once(&socket)?;
        for answer in answers(&bytes).ok_or_else(malformed)? {
            match answer {
                Answer::Done => return Ok(Some(rules)),
                Answer::Outcome { errno, .. } if errno != 0 => {
                    return Err(refused(BEGIN, format!("to read the table {table}"), errno));
                }
                Answer::Told {
                    kind: NEW_RULE,
                    attributes,
                } => {
                    // NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS
                    let of = attribute(attributes, 1).map(text);
                    if of.as_deref() != Some(table) {
                        continue;
                    }
                    let chain = attribute(attributes, 2).map(text).unwrap_or_default();
                    let expressions = attribute(attributes, 4).unwrap_or_default();
                    rules.push(chain, expressions);
                }
                _ => {}
            }
        }
    }
}

fn open() -> Result<Socket, RedirectError> {
    let protocol = Protocol::from(libc::NETLINK_NETFILTER);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol));
    let socket = socket.map_err(|error| match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => RedirectError::NoNfTables(error),
        Some(libc::EPERM | libc::EACCES) => RedirectError::Denied,
        _ => RedirectError::Socket(error),
    })?;
    let set = socket.set_read_timeout(Some(PATIENCE));
    set.map_err(RedirectError::Socket)?;
    Ok(socket)
}

/// A socket without a peer sends to the kernel.
fn write(socket: &Socket, bytes: &[u8]) -> Result<(), RedirectError> {
    let sent = socket.send(bytes).map_err(RedirectError::Socket)?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(RedirectError::Socket(io::ErrorKind::WriteZero.into())),
    }
}

fn read_once(mut socket: &Socket) -> Result<Vec<u8>, RedirectError> {
    let mut bytes = vec![0; ANSWER];
    loop {
        match socket.read(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(RedirectError::Socket(e)),
            Ok(read) => {
                bytes.truncate(read);
                return Ok(bytes);
            }
        }
    }
}

fn malformed() -> RedirectError {
    let why = "an answer of the kernel is cut or malformed";
    RedirectError::Socket(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// What an `errno` means, by the message that it answers.
pub(super) fn refused(sequence: u32, what: String, errno: i32) -> RedirectError {
    let source = io::Error::from_raw_os_error(errno);
    match errno {
        libc::EPERM | libc::EACCES => RedirectError::Denied,
        // The subsystem itself is not there.
        libc::EOPNOTSUPP | libc::EINVAL if sequence == BEGIN => RedirectError::NoNfTables(source),
        // The table was made just before, so what is not found is a kind of chain or of expression.
        libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => {
            RedirectError::Lacks { what, source }
        }
        _ => RedirectError::Refused { what, source },
    }
}
