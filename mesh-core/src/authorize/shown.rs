//! Policies as an operator reads them: in the words of the documents that they were read from.
//!
//! In comes the compiled policy of a workload, out goes what is decided on, in the order of
//! evaluation. Only what is written is shown: an absent list matches any.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::pattern::Pattern;
use super::policy::{
    Action, DefaultAction, FailureMode, Operation, Policy, PolicyRule, PolicySource, WorkloadPolicy,
};
use crate::model::ObjectKey;

// === impl DefaultAction ===

impl DefaultAction {
    /// As the agent's file names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

// === impl Action ===

impl Action {
    /// As documents name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Custom(_) => "CUSTOM",
            Self::Deny => "DENY",
        }
    }
}

// === impl WorkloadPolicy ===

impl WorkloadPolicy {
    /// What happens to a request if no ALLOW policy selects the workload.
    pub fn default_action(&self) -> DefaultAction {
        self.default
    }

    /// The policies that select the workload, in the order of evaluation.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let all = self.deny.iter().chain(&self.allow).chain(&self.custom);
        all.map(|policy| &**policy)
    }

    /// Policies that may select the workload and never were good: while there is one, everything is
    /// denied.
    pub fn broken(&self) -> &[ObjectKey] {
        &self.broken
    }
}

impl Serialize for WorkloadPolicy {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("defaultAction", self.default.as_str())?;
        if let Some(own) = &self.own {
            map.serialize_entry("trustDomain", own.as_str())?;
        }
        let refused: Vec<_> = self.broken.iter().map(ToString::to_string).collect();
        map.serialize_entry("refused", &refused)?;
        map.serialize_entry("policies", &self.policies().collect::<Vec<_>>())?;
        map.end()
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("object", &self.key.to_string())?;
        map.serialize_entry("action", self.action.as_str())?;
        if let Action::Custom(provider) = &self.action {
            map.serialize_entry("provider", &*provider.name)?;
            let on_failure = match provider.on_failure {
                FailureMode::Allow => "allow",
                FailureMode::Deny => "deny",
            };
            map.serialize_entry("onFailure", on_failure)?;
        }
        let labels = self.selector.iter().map(|(key, value)| (&**key, &**value));
        let labels: std::collections::BTreeMap<_, _> = labels.collect();
        map.serialize_entry("matchLabels", &labels)?;
        map.serialize_entry("rules", &self.rules)?;
        map.end()
    }
}

impl Serialize for PolicyRule {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        if !self.from.is_empty() {
            map.serialize_entry("from", &self.from)?;
        }
        if !self.to.is_empty() {
            map.serialize_entry("to", &self.to)?;
        }
        map.end()
    }
}

impl Serialize for PolicySource {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let lists = [
            ("principals", &self.principals),
            ("notPrincipals", &self.not_principals),
            ("namespaces", &self.namespaces),
            ("notNamespaces", &self.not_namespaces),
            ("trustDomains", &self.trust_domains),
            ("notTrustDomains", &self.not_trust_domains),
        ];
        written(out, lists)
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let lists = [
            ("methods", &self.methods),
            ("notMethods", &self.not_methods),
            ("paths", &self.paths),
            ("notPaths", &self.not_paths),
        ];
        written(out, lists)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// The lists that have something in them.
fn written<S: Serializer, const N: usize>(
    out: S,
    lists: [(&str, &Vec<Pattern>); N],
) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(None)?;
    for (name, list) in lists {
        if !list.is_empty() {
            map.serialize_entry(name, list)?;
        }
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::authorize::Provider;
    use crate::model::{Kind, Namespace};

    #[test]
    fn a_policy_is_shown_in_the_words_of_documents() -> Result<(), Box<dyn std::error::Error>> {
        let shop = Namespace::new("shop")?;
        let key = |name: &str| ObjectKey::new(Kind::AuthorizationPolicy, &shop, name);
        let web = PolicySource::builder()
            .principals(["lab.test/ns/shop/sa/web"])
            .not_namespaces(["guests"])
            .build()?;
        let read = Operation::builder()
            .methods(["GET"])
            .paths(["/a*"])
            .build()?;
        let allow = Policy::new(
            key("reads")?,
            Action::Allow,
            vec![PolicyRule::new(vec![web], vec![read])],
        );
        let ask = Policy::new(
            key("asks")?,
            Action::Custom(Provider::new("opa")),
            vec![PolicyRule::default()],
        );
        let policies = [allow.select("app", "cart"), ask].map(Arc::new);
        let policy = WorkloadPolicy::compile(DefaultAction::Deny, policies, vec![key("bad")?]);
        assert_eq!(
            serde_json::to_value(&policy)?,
            json!({
                "defaultAction": "deny",
                "refused": ["AuthorizationPolicy/shop/bad"],
                "policies": [
                    {
                        "object": "AuthorizationPolicy/shop/reads",
                        "action": "ALLOW",
                        "matchLabels": {"app": "cart"},
                        "rules": [{
                            "from": [{
                                "principals": ["lab.test/ns/shop/sa/web"],
                                "notNamespaces": ["guests"],
                            }],
                            "to": [{"methods": ["GET"], "paths": ["/a*"]}],
                        }],
                    },
                    {
                        "object": "AuthorizationPolicy/shop/asks",
                        "action": "CUSTOM",
                        "provider": "opa",
                        "onFailure": "deny",
                        "matchLabels": {},
                        "rules": [{}],
                    },
                ],
            })
        );
        Ok(())
    }
}
