//! What serves connections: the accept loop of every server in this crate, HTTP/1.1 with bounds, and
//! pages about a process.

#[cfg(any(
    feature = "federation",
    all(feature = "workload-api", unix),
    all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring"))
))]
pub(crate) mod accept;
mod host;
#[cfg(any(
    feature = "federation",
    all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring"))
))]
mod http;
mod linger;
#[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
mod pages;
mod places;
mod within;

#[cfg(any(
    feature = "federation",
    all(feature = "workload-api", unix),
    all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring"))
))]
pub(crate) use accept::accept;
pub use host::{NotForUs, is_for_us};
#[cfg(any(
    feature = "federation",
    all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring"))
))]
pub(crate) use http::http1;
pub use linger::{linger, read_on};
#[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
pub use pages::pages;
pub use places::{Holder, Place, Places};
pub use within::Within;
