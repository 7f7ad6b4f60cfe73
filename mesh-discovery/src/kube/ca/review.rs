//! Service-account tokens, reviewed by the API server, which knows whether account and Pod still exist.

use std::time::Duration;

use inmesh_pki::ca::attest::{ReviewError, Reviewed, TokenReview};
use kube::Client;
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::kube::Cluster;

/// How long a review may take.
const TIME: Duration = Duration::from_secs(5);
/// Where they are made.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// How the name of a service account begins.
const ACCOUNT: &str = "system:serviceaccount:";

/// Asks an API server to which service account a token belongs. Its role needs `create` on
/// `tokenreviews.authentication.k8s.io` (`system:auth-delegator` has it).
///
/// Each token is reviewed each time, and no answer is kept here. An API server keeps its own for ten
/// seconds: the token of an account that is deleted proves it for so long.
///
/// ```no_run
/// # async fn doc() -> Result<(), inmesh_discovery::kube::ClusterError> {
/// use inmesh_discovery::kube::{Cluster, TokenReviews};
/// use inmesh_pki::ca::attest::Attestors;
///
/// let reviews = TokenReviews::of(&Cluster::infer().await?);
/// let attestors = Attestors::none().with_review("inmesh-ca".to_owned(), reviews);
/// # drop(attestors);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenReviews {
    client: Client,
}

impl TokenReviews {
    /// Those of a cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            client: cluster.client.clone(),
        }
    }
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").finish_non_exhaustive()
    }
}

impl TokenReview for TokenReviews {
    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
        let unavailable = |reason: String| ReviewError::Unavailable { reason };
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let request =
            http::Request::post(PATH).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(review.to_string().into_bytes());
        let request = request.map_err(|e| unavailable(e.to_string()))?;
        match timeout(TIME, self.client.request::<Json>(request)).await {
            Ok(Ok(answer)) => read(&answer, audience),
            // What cannot be a token: an empty one, for example.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 422) => {
                Err(refused(&status.message))
            }
            Ok(Err(kube::Error::Api(status))) => {
                Err(unavailable(format!("{} ({})", status.message, status.code)))
            }
            Ok(Err(e)) => Err(unavailable(crate::kube::watch::root(&e))),
            Err(_) => Err(unavailable(format!(
                "no answer within {} s",
                TIME.as_secs()
            ))),
        }
    }
}

fn refused(reason: &str) -> ReviewError {
    ReviewError::Refused {
        reason: reason.to_owned(),
    }
}

/// What an answer says. The API server says for which of the audiences that were asked for the token is.
fn read(answer: &Json, audience: &str) -> Result<Reviewed, ReviewError> {
    let status = &answer["status"];
    if status["authenticated"] != true {
        let why = status["error"]
            .as_str()
            .unwrap_or("it is not authenticated");
        return Err(refused(why));
    }
    let audiences = status["audiences"].as_array();
    if !audiences.is_some_and(|all| all.iter().any(|one| one == audience)) {
        return Err(refused("it is meant for another audience"));
    }
    let name = status["user"]["username"].as_str().unwrap_or_default();
    let account = name
        .strip_prefix(ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() => {
            Ok(Reviewed {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
            })
        }
        _ => Err(refused("it is of no service account")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_an_account_for_the_audience_that_was_asked_for() {
        let good = || {
            json!({"status": {
                "authenticated": true, "audiences": ["ca"],
                "user": {"username": "system:serviceaccount:shop:cart"},
            }})
        };
        let with = |at: &str, value: Json| {
            let mut answer = good();
            *answer.pointer_mut(at).expect("it is there") = value;
            answer
        };
        let found = read(&good(), "ca").expect("it is good");
        assert_eq!(
            (&*found.namespace, &*found.service_account),
            ("shop", "cart")
        );
        for (answer, why) in [
            (json!({}), "not authenticated"),
            (
                json!({"status": {"error": "invalid bearer token"}}),
                "invalid bearer token",
            ),
            (
                with("/status/authenticated", false.into()),
                "not authenticated",
            ),
            (
                with("/status/authenticated", "true".into()),
                "not authenticated",
            ),
            (
                with("/status/audiences", json!(["other"])),
                "another audience",
            ),
            (with("/status/audiences", Json::Null), "another audience"),
            (
                with("/status/user/username", "admin".into()),
                "no service account",
            ),
            (
                with("/status/user/username", "system:serviceaccount:shop".into()),
                "no service account",
            ),
            (
                with(
                    "/status/user/username",
                    "system:serviceaccount::cart".into(),
                ),
                "no service account",
            ),
            (
                with(
                    "/status/user/username",
                    "system:serviceaccount:shop:".into(),
                ),
                "no service account",
            ),
        ] {
            let found = read(&answer, "ca").expect_err(why);
            assert!(found.to_string().contains(why), "{found}");
        }
    }
}
