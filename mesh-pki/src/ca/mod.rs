//! A CA in this process: it keeps its root, issues leaves, and replaces root and issuing CA with
//! new keys while the mesh runs.
//!
//! - [`state`]: everything that a CA must not forget, and the steps from one state to the next
//!   (pure);
//! - `members`: which process holds a leaf, and which bundle it has (pure);
//! - `plan`: whether the mesh is ready for the next step, and what is due (pure);
//! - `pace`: how many leaves a second, and how long a caller waits (pure);
//! - [`attest`]: what tokens prove;
//! - `server` and `admin` (feature `ca-server`): the CA over gRPC, and its operator;
//! - [`store`]: where the state and the keys are kept, crash after crash;
//! - [`Ca`]: the driver: it writes a state down, and then lets its effects out.
//!
//! A root is replaced in four steps. *Prepare*: the new root goes into the bundle, unused. *Distributed*: every live member has acknowledged that bundle. *Activate*: new leaves are
//! signed under it, and every member can verify them. *Retire*: the old root leaves the bundle once no
//! leaf under it is alive. So at no moment does a member meet a leaf that it cannot verify.

#[cfg(all(feature = "ca-server", unix))]
pub mod admin;
pub mod attest;
pub mod authority;
#[cfg(feature = "ca-server")]
pub mod server;
pub mod state;
pub mod store;

mod error;
mod members;
#[cfg(feature = "ca-server")]
mod pace;
mod plan;
mod report;
mod running;
mod step;

#[cfg(test)]
mod tests;

pub use authority::{AuthorityError, Lifetimes, NewAuthority};
pub use error::{CaError, OpenError};
pub use members::{MAX_INSTANCE, MemberStatus, Missing};
#[cfg(feature = "ca-server")]
pub use pace::DEFAULT_RATE;
pub use plan::Wait;
pub use report::{Asker, AuthorityStatus, CaStatus, Issued, Published, Tick};
pub use running::Ca;
