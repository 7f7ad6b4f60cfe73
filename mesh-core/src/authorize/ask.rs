//! External authorizers: the port that answers where a policy leaves a request to one, and the
//! driver that asks it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::decide::{Answer, Denied, Permit, Verdict};
use super::view::RequestView;
use crate::identify::Peer;
use crate::model::ObjectKey;

/// A request that a CUSTOM policy leaves to an external authorizer.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Question<'a> {
    /// The policy.
    pub policy: &'a ObjectKey,
    /// The peer that sends the request.
    pub peer: &'a Peer,
    /// The request.
    pub request: RequestView<'a>,
}

/// An external authorizer.
///
/// ```
/// use inmesh_core::authorize::{Answer, Asking, Authorizer, Question};
/// use inmesh_core::identify::Peer;
///
/// struct Verified;
///
/// impl Authorizer for Verified {
///     fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a> {
///         let answer = match question.peer {
///             Peer::Verified(_) => Answer::Allow,
///             _ => Answer::Deny,
///         };
///         Box::pin(async move { answer })
///     }
/// }
/// ```
pub trait Authorizer: Send + Sync + 'static {
    /// Answers a question. The runtime stops to wait after the time it was given.
    fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a>;
}

/// A future of an authorizer's answer.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// The authorizers of a runtime by the names that policies know them by.
#[derive(Clone, Default)]
pub struct Authorizers(BTreeMap<Arc<str>, (Arc<dyn Authorizer>, Duration)>);

// === impl Authorizers ===

impl Authorizers {
    /// Adds an authorizer that is waited for as long as `limit`.
    pub fn insert(&mut self, name: &str, authorizer: Arc<dyn Authorizer>, limit: Duration) {
        self.0.insert(name.into(), (authorizer, limit));
    }

    /// Asks until a verdict is final. An authorizer that is not known denies, whatever the failure
    /// mode: no request was ever meant to pass without it.
    ///
    /// # Errors
    ///
    /// [`Denied`] with the policy that decided.
    pub async fn settle(
        &self,
        mut verdict: Verdict,
        peer: &Peer,
        request: RequestView<'_>,
    ) -> Result<Permit, Denied> {
        loop {
            let Verdict::Ask(ask) = verdict else {
                return verdict.permit();
            };
            let answer = match ask.poll_question() {
                Some((policy, provider)) => match self.0.get(&provider.name) {
                    Some((authorizer, limit)) => {
                        let policy = &policy.key;
                        let question = Question {
                            policy,
                            peer,
                            request,
                        };
                        timeout(*limit, authorizer.ask(question))
                            .await
                            .unwrap_or(Answer::Failed)
                    }
                    None => Answer::Deny,
                },
                None => Answer::Deny,
            };
            verdict = ask.handle_answer(answer);
        }
    }
}

impl fmt::Debug for Authorizers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
