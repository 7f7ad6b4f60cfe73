//! Accept: a socket in, a connection out, with its protocol known and its deadlines running.
//!
//! In come sockets; out come connections whose first bytes have been looked at where nothing was
//! declared. [`detect`] is pure over those bytes. It refuses to wait for ever, and to guess a
//! protocol that a listener has declared.

#[cfg(feature = "runtime")]
mod breaking;
mod detect;
#[cfg(feature = "runtime")]
mod hello;
#[cfg(feature = "runtime")]
mod linger;
#[cfg(feature = "runtime")]
mod listener;
#[cfg(feature = "runtime")]
mod place;
pub mod proxy;
#[cfg(feature = "runtime")]
mod request_line;
#[cfg(feature = "runtime")]
mod socket;
#[cfg(feature = "runtime")]
mod sockets;
#[cfg(feature = "runtime")]
mod timed;
#[cfg(feature = "runtime")]
mod upload;

#[cfg(feature = "runtime")]
pub(crate) use breaking::{Breaking, Wire, break_off};
pub use detect::{Detected, detect};
#[cfg(feature = "runtime")]
pub(crate) use detect::{is_text, may_be_http2, speaks_http};
#[cfg(feature = "runtime")]
pub(crate) use hello::{Hello, hello};
#[cfg(feature = "runtime")]
pub(crate) use linger::Lingering;
#[cfg(feature = "runtime")]
pub(crate) use listener::{Listener, Taken, peek};
#[cfg(feature = "runtime")]
pub(crate) use place::Share;
#[cfg(feature = "runtime")]
pub(crate) use request_line::NoRequest;
#[cfg(feature = "runtime")]
pub(crate) use socket::{Noticing, Socket};
#[cfg(feature = "runtime")]
pub(crate) use sockets::{Half, Sockets};
#[cfg(feature = "runtime")]
pub(crate) use timed::{ConnState, Timed};
#[cfg(feature = "runtime")]
pub(crate) use upload::Upload;

#[cfg(test)]
mod tests;
