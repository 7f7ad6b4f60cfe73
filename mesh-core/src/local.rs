//! A workload that this process serves, as a value that each of its connections is given.

use std::sync::Arc;

use inmesh_pki::id::SpiffeId;

use crate::authorize::{Action, DefaultAction, InvalidPolicy, PathForm, Policy, WorkloadPolicy};
use crate::model::Workload;

/// A workload with its identity and its policies.
///
/// Connections of different workloads are never shared, their metrics are counted apart, and each
/// presents its own SVID. What others may ask of it is compiled in the snapshot; what it may ask of
/// others is its egress policy.
#[derive(Debug, Clone)]
pub struct Local {
    workload: Workload,
    /// `namespace/name`, as records have it.
    shown: Arc<str>,
    identity: Option<SpiffeId>,
    default_action: DefaultAction,
    egress: WorkloadPolicy,
}

// === impl Local ===

impl Local {
    /// A workload that has the default SVID and may call every Service.
    ///
    /// ```
    /// use inmesh_core::Local;
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::Workload;
    /// let web = Workload::new("shop", "web", "web")?;
    /// let local = Local::new(web, DefaultAction::Deny)
    ///     .with_identity("spiffe://example.org/ns/shop/sa/web".parse()?);
    /// assert_eq!(&*local.workload().name, "web");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(workload: Workload, default_action: DefaultAction) -> Self {
        Self {
            shown: workload.to_string().into(),
            workload,
            identity: None,
            default_action,
            egress: WorkloadPolicy::empty(DefaultAction::Allow),
        }
    }

    /// The same workload with the SVID of this ID. While the store has none, no certificate is
    /// presented and no client is served.
    #[must_use]
    pub fn with_identity(mut self, id: SpiffeId) -> Self {
        self.identity = Some(id);
        self
    }

    /// The same workload with an egress policy: what it may ask of others, judged before a route is
    /// decided. Selectors are not read; fields about the source are unknown, so that a DENY rule
    /// with one matches and an ALLOW rule does not.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if a policy has the action CUSTOM, which only inbound requests can wait for.
    pub fn with_egress(
        mut self,
        default: DefaultAction,
        policies: impl IntoIterator<Item = Arc<Policy>>,
    ) -> Result<Self, InvalidPolicy> {
        let policies: Vec<_> = policies.into_iter().collect();
        if let Some(policy) = policies
            .iter()
            .find(|p| matches!(p.action, Action::Custom(_)))
        {
            let message = format!("{}: an egress policy cannot be CUSTOM", policy.key);
            return Err(InvalidPolicy::new("action", message));
        }
        self.egress = WorkloadPolicy::compile(default, policies, Vec::new());
        Ok(self)
    }

    /// The same workload where requests come in a form.
    #[must_use]
    pub(crate) fn in_form(mut self, form: PathForm) -> Self {
        self.egress = self.egress.in_form(form);
        self
    }

    /// The workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The workload as `namespace/name`, as records have it.
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// The ID whose SVID it presents; `None` is the store's default SVID.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// What happens to a request that no ALLOW policy is about.
    pub fn default_action(&self) -> DefaultAction {
        self.default_action
    }

    /// What it may ask of others.
    pub fn egress(&self) -> &WorkloadPolicy {
        &self.egress
    }
}
