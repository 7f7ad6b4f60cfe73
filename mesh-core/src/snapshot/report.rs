//! The status of objects: what serves, what was refused, what dangles.

use super::change::Object;
use super::state::{Snapshot, Version};
use super::status::{Condition, ConditionKind, ObjectStatus, Problem, Serving, Severity};
use crate::model::{ObjectKey, ServiceName, SourceId, Subset};
use crate::traffic::{Target, TrafficPolicy};

impl Version {
    fn serving(&self) -> Serving {
        match (&self.good, self.refused) {
            (Some(_), false) => Serving::Current,
            (Some(_), true) => Serving::LastGood,
            (None, _) => Serving::Nothing,
        }
    }
}

impl Snapshot {
    /// What became of each object, by name. Warnings about what an object refers to are found
    /// anew, since they come and go with other objects.
    pub fn status(&self) -> Vec<ObjectStatus> {
        let mut out: Vec<_> = self
            .objects
            .iter()
            .flat_map(|(key, versions)| {
                (0..versions.0.len()).map(|nth| self.status_of(key, &versions.0, nth))
            })
            .collect();
        out.sort_by(|a, b| a.object.cmp(&b.object));
        out
    }

    /// The objects among `keys` that do not serve as `source` has pushed them, or have problems.
    pub fn problems<'k>(
        &self,
        source: &SourceId,
        keys: impl IntoIterator<Item = &'k ObjectKey>,
    ) -> Vec<ObjectStatus> {
        let status = |key| {
            let versions = &self.objects.get(key)?.0;
            let nth = versions.iter().position(|v| v.source == *source)?;
            Some(self.status_of(key, versions, nth))
        };
        keys.into_iter()
            .filter_map(status)
            .filter(|s| s.serving != Serving::Current || !s.problems.is_empty())
            .collect()
    }

    /// What serves of each object that sources speak of.
    pub fn serving(&self) -> impl Iterator<Item = Serving> {
        let versions = self.objects.values().flat_map(|versions| &versions.0);
        versions.map(Version::serving)
    }

    fn status_of(&self, key: &ObjectKey, versions: &[Version], nth: usize) -> ObjectStatus {
        let version = &versions[nth];
        let mut problems = version.problems.clone();
        if version.serving() == Serving::LastGood {
            fall_back(&mut problems);
        }
        problems.extend(self.dangling(version));
        if nth > 0 {
            let first = &versions[0].source;
            let message = format!("shadowed by {first}, which has precedence");
            problems.push(Problem::warning("", message));
        }
        ObjectStatus {
            object: key.to_string(),
            source: version.source.clone(),
            serving: version.serving(),
            problems,
        }
    }

    /// What there is not of a port of a Service, and the condition of its route.
    fn lacks(&self, service: &ServiceName, port: u16) -> Option<(String, Condition)> {
        let lacks = match self.service(service) {
            None => service.absent(),
            Some(view) if view.port(port).is_none() => {
                format!("Service {service} has no port {port}")
            }
            Some(_) => return None,
        };
        let reason = match service.is_foreign() {
            true => "InvalidKind",
            false => "BackendNotFound",
        };
        let condition = Condition::not(ConditionKind::ResolvedRefs, reason);
        Some((format!("{lacks} (ResolvedRefs False, {reason})"), condition))
    }

    /// Whether a Service serves in place of the ServiceEntry of its name.
    fn is_displaced(&self, name: &ServiceName) -> bool {
        self.service(name)
            .is_some_and(|view| view.outside().is_none())
    }

    /// Why a subset has no endpoint.
    fn lacks_subset(&self, subset: &Subset) -> Option<String> {
        let of = &subset.of;
        let parts = self.parts.get(of)?;
        if self.service(of).is_none() {
            return Some(format!("Service {of} does not exist"));
        }
        let slices = parts.slices.iter().filter_map(|key| self.good(key));
        let mut slices = slices.filter_map(|object| match object {
            Object::Slice(slice) => Some(slice),
            _ => None,
        });
        let none = !slices.any(|slice| self.selected(slice, subset).is_some());
        none.then(|| format!("no endpoint of Service {of} has the labels of the selector"))
    }

    /// The parents at which another route takes effect in the place of this one.
    fn conflicts(&self, route: &Object) -> Vec<Problem> {
        let key = route.key();
        let parents = route.parents().iter().enumerate();
        let conflicts = parents.filter_map(|(n, parent)| {
            let view = self.service(&parent.service)?;
            let only = parent.attaches_to(&view.ports)?;
            let ports = view.ports.iter().map(|port| port.port);
            let ports = ports.filter(move |port| only.is_none_or(|only| only == *port));
            let key = &key;
            Some(ports.filter_map(move |port| {
                let other = view.routes.conflict(key, port)?;
                let message = format!(
                    "has no effect at port {port}: {other} is attached there (Accepted False, \
                     Conflicted)"
                );
                let condition = Condition::not(ConditionKind::Accepted, "Conflicted");
                let problem = Problem::warning(format!("spec.parentRefs[{n}]"), message);
                Some(problem.means(condition))
            }))
        });
        conflicts.flatten().collect()
    }

    /// The targets of a policy that are not there.
    fn untargeted_traffic(&self, policy: &TrafficPolicy) -> Vec<Problem> {
        let lacks = |target: &Target| match target {
            Target::Service(name, section) => {
                let Some(view) = self.service(name) else {
                    return Some(format!("Service {name} does not exist"));
                };
                let section = section.as_deref()?;
                let none = !view.ports.iter().any(|port| *port.name == *section);
                none.then(|| format!("Service {name} has no port named {section:?}"))
            }
            Target::Route(key, section) => {
                let Some(route) = self.good(key) else {
                    return Some(format!("{key} does not exist, or is refused"));
                };
                let section = section.as_deref()?;
                let rules = route.rules();
                let none = !rules
                    .iter()
                    .any(|rule| rule.name.as_deref() == Some(section));
                none.then(|| format!("{key} has no rule named {section:?}"))
            }
            Target::Workloads(_) => None,
        };
        let targets = policy.targets.iter().enumerate();
        let lacking = targets.filter_map(|(n, target)| Some((n, lacks(target)?)));
        let warn = |(n, lacks)| {
            let message = format!("{lacks} (Accepted False, TargetNotFound)");
            let condition = Condition::not(ConditionKind::Accepted, "TargetNotFound");
            Problem::warning(format!("spec.targetRefs[{n}]"), message).means(condition)
        };
        lacking.map(warn).collect()
    }

    /// What a version refers to that is not there.
    fn dangling(&self, version: &Version) -> Vec<Problem> {
        let warn = |field: String, message: String| Problem::warning(field, message);
        match &version.good {
            Some(Object::BackendTls(policy)) => self.unoriginated(policy),
            Some(route @ (Object::GrpcRoute(_) | Object::OpaqueRoute(_) | Object::Route(_))) => {
                let parents = route.parents().iter().enumerate();
                let parents = parents.filter_map(|(n, parent)| {
                    let name = &parent.service;
                    let message = match (self.service(name), &parent.port_name) {
                        (None, _) => format!("Service {name} does not exist"),
                        (Some(view), Some(port)) if !view.ports.iter().any(|p| p.name == *port) => {
                            format!("Service {name} has no port named {port:?}")
                        }
                        (Some(view), _) => match parent.port {
                            Some(port) if view.port(port).is_none() => {
                                format!("Service {name} has no port {port}")
                            }
                            _ => return None,
                        },
                    };
                    let condition = Condition::not(ConditionKind::Accepted, "NoMatchingParent");
                    Some(warn(format!("spec.parentRefs[{n}]"), message).means(condition))
                });
                let answer = match route {
                    Object::GrpcRoute(_) => "answered with UNAVAILABLE",
                    Object::OpaqueRoute(_) => "refused",
                    _ => "answered with 500",
                };
                let backends = route.rules().into_iter().enumerate().flat_map(|(r, rule)| {
                    rule.backends()
                        .iter()
                        .enumerate()
                        .filter_map(move |(b, backend)| {
                            let (lacks, condition) = self.lacks(&backend.service, backend.port)?;
                            let message = format!("{lacks}; its share is {answer}");
                            let at = format!("spec.rules[{r}].backendRefs[{b}]");
                            Some(warn(at, message).means(condition))
                        })
                });
                let mirrors = route.rules().into_iter().enumerate().flat_map(|(r, rule)| {
                    rule.mirrors().filter_map(move |(backend, n, mirror)| {
                        let (lacks, condition) = self.lacks(mirror.service(), mirror.port())?;
                        let message = format!("{lacks}; nothing is mirrored");
                        let at = backend.map_or(String::new(), |b| format!(".backendRefs[{b}]"));
                        let at = format!("spec.rules[{r}]{at}.filters[{n}].requestMirror");
                        Some(warn(format!("{at}.backendRef"), message).means(condition))
                    })
                });
                let all = parents.chain(backends).chain(mirrors);
                all.chain(self.conflicts(route)).collect()
            }
            Some(Object::Service(service))
                if service.outside.is_some() && self.is_displaced(&service.name) =>
            {
                let message = format!(
                    "Service {} has the name and serves in its place",
                    service.name
                );
                vec![warn("metadata.name".into(), message)]
            }
            Some(Object::Traffic(policy)) => self.untargeted_traffic(policy),
            Some(Object::Service(service)) => {
                let lacks = service
                    .subset
                    .as_ref()
                    .and_then(|subset| self.lacks_subset(subset));
                let at = "metadata.annotations[inmesh.dev/subset-of]";
                { lacks.into_iter() }
                    .map(|lacks| warn(at.into(), lacks))
                    .collect()
            }
            Some(Object::Slice(slice)) if self.service(&slice.service).is_none() => vec![warn(
                "metadata.labels[kubernetes.io/service-name]".into(),
                format!("Service {} does not exist", slice.service),
            )],
            Some(Object::Slice(slice)) => self.without_pods(slice).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

/// Names the condition of a route that is refused for some of its rules, while the version before it serves.
fn fall_back(problems: &mut [Problem]) {
    let partial = |problem: &&mut Problem| {
        problem.severity == Severity::Note && problem.field.ends_with("spec.rules")
    };
    for problem in problems.iter_mut().filter(partial) {
        problem.message +=
            ": Fall Back to the version before it, which serves (PartiallyInvalid True)";
        let condition = Condition::holds(ConditionKind::PartiallyInvalid, "UnsupportedValue");
        problem.conditions.push(condition);
    }
}
