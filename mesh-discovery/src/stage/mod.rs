//! A document that is staged on some of the members before all have it: `mesh apply --canary`.
//!
//! The object stays as it is; an annotation of ours has the `spec` that is staged, and what becomes of it
//! ([`Stage`]). A control plane hands that on to a share of the members that are sent the object, compares how
//! requests fare there and with the rest, and puts it in the place of the object's own, or takes it back.
//!
//! [`judge`] says which, [`choose`] which members have it, `plan` what the replica does next that leads; all of
//! them are pure. [`Stages`] is between the source that reads the annotations and the control plane.
//!
//! | where | what |
//! | --- | --- |
//! | `annotation` | the words on the object |
//! | `offer` | whether a document can be staged at all, and what is handed on |
//! | `share` | which members are its canary |
//! | `tally` | how requests fared, of a member, a replica, all of them |
//! | `judge` | what follows from that |
//! | `plan` | the next step of a stage |

mod annotation;
mod judge;
mod offer;
#[cfg(feature = "kubernetes")]
pub(crate) mod plan;
mod share;
mod tally;

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

pub use annotation::{InvalidStage, Running, Sided, Stage, State};
pub use judge::{Evidence, Verdict, judge};
pub use offer::Offer;
#[cfg(feature = "kubernetes")]
pub(crate) use offer::{Offered, offer};
pub use share::{Chosen, LOWEST, choose, mark};
pub use tally::{BOUNDS, Counted, Tally};

/// How a control plane counts, for a stage of that name.
type Counts = Box<dyn Fn(&str) -> Tally + Send + Sync>;

/// The document that is staged now, from the source that reads it to the control plane that hands it on; and
/// what that counts, back. Cheap to clone.
///
/// ```no_run
/// # #[cfg(feature = "control-server")]
/// # fn doc(mesh: &inmesh_core::Mesh, crypto: inmesh_pki::Crypto) {
/// use inmesh_discovery::control::ControlPlane;
/// use inmesh_discovery::stage::Stages;
/// let stages = Stages::new();
/// // The same as a source has: `KubeSource::stages`.
/// let plane = ControlPlane::new(mesh, crypto).stages(&stages);
/// # drop(plane);
/// # }
/// ```
#[derive(Clone)]
pub struct Stages(Arc<Shared>);

struct Shared {
    offer: watch::Sender<Option<Arc<Offer>>>,
    counts: OnceLock<Counts>,
}

// === impl Stages ===

impl Stages {
    /// None is staged.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            offer: watch::Sender::new(None),
            counts: OnceLock::new(),
        }))
    }

    /// Stages a document in place of the one before.
    pub fn set(&self, offer: Option<Arc<Offer>>) {
        self.0.offer.send_if_modified(|before| {
            let same = *before == offer;
            *before = offer;
            !same
        });
    }

    /// What is staged, and each change of that.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Offer>>> {
        self.0.offer.subscribe()
    }

    /// How requests fare by the members of this process that report on the stage of that name.
    #[must_use]
    pub fn tally(&self, id: &str) -> Tally {
        let counts = self.0.counts.get();
        counts.map_or_else(Tally::default, |counts| counts(id))
    }

    /// Has a control plane count; the first that is given does.
    pub fn counted_by(&self, counts: impl Fn(&str) -> Tally + Send + Sync + 'static) {
        let _first = self.0.counts.set(Box::new(counts));
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stages")
            .field(&*self.0.offer.borrow())
            .finish()
    }
}
