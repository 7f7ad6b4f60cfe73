//! Policies in the form in which a setting lets requests come.
//!
//! In come conditions as their author wrote them and the [`PathForm`] of the process; out come
//! conditions that such requests can match. Where `%2F` is decoded, no request has one, so a
//! pattern with it would deny nothing: it is brought into the same form. A pattern for which that
//! gives no single meaning is refused, and a policy with one counts as never good.

use std::sync::Arc;

use super::canonical::PathForm;
use super::pattern::{InvalidPolicy, Pattern};
use super::policy::{Operation, Policy, PolicyRule, WorkloadPolicy};

// === impl Operation ===

impl Operation {
    /// The same conditions for requests whose paths come in a form.
    ///
    /// ```
    /// use inmesh_core::authorize::{Operation, PathForm};
    /// let written = Operation::builder().paths(["/repos/a%2Fb"]).build()?;
    /// let seen = written.in_form(PathForm::default().decode_slashes(true))?;
    /// assert_eq!(seen.paths[0].to_string(), "/repos/a/b");
    /// assert_eq!(written.in_form(PathForm::default())?, written);
    /// # Ok::<(), inmesh_core::authorize::InvalidPolicy>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if a path has a dot segment once its slashes are decoded.
    pub fn in_form(&self, form: PathForm) -> Result<Self, InvalidPolicy> {
        let each = |field, list: &[Pattern]| {
            let seen = list.iter().map(|pattern| pattern.in_form(field, form));
            seen.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            methods: self.methods.clone(),
            not_methods: self.not_methods.clone(),
            paths: each("paths", &self.paths)?,
            not_paths: each("notPaths", &self.not_paths)?,
        })
    }
}

// === impl Policy ===

impl Policy {
    fn in_form(&self, form: PathForm) -> Result<Self, InvalidPolicy> {
        let rule = |rule: &PolicyRule| {
            let to = rule.to.iter().map(|operation| operation.in_form(form));
            Ok(PolicyRule::new(
                rule.from.clone(),
                to.collect::<Result<_, _>>()?,
            ))
        };
        Ok(Self {
            key: self.key.clone(),
            selector: self.selector.clone(),
            action: self.action.clone(),
            rules: self.rules.iter().map(rule).collect::<Result<_, _>>()?,
        })
    }
}

// === impl WorkloadPolicy ===

impl WorkloadPolicy {
    /// The same policy for requests whose paths come in a form.
    #[must_use]
    pub fn in_form(mut self, form: PathForm) -> Self {
        if !self.paths || form == PathForm::default() {
            return self;
        }
        let broken = &mut self.broken;
        for list in [&mut self.deny, &mut self.allow, &mut self.custom] {
            list.retain_mut(|policy| match policy.in_form(form) {
                Ok(seen) if seen == **policy => true,
                Ok(seen) => {
                    *policy = Arc::new(seen);
                    true
                }
                Err(_) => {
                    broken.push(policy.key.clone());
                    false
                }
            });
        }
        broken.sort();
        self
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::authorize::{Action, DefaultAction, HttpView, RequestView, decide};
    use crate::identify::Peer;
    use crate::local::Local;
    use crate::model::{Kind, Namespace, ObjectKey, SourceId, Workload};
    use crate::snapshot::{Change, Op, Settings, Snapshot};

    fn both() -> PathForm {
        PathForm::default().decode_slashes(true).merge_slashes(true)
    }

    fn policy(action: Action, paths: &[&str], not: &[&str]) -> Policy {
        let operation = Operation::builder().paths(paths).not_paths(not);
        let rule = PolicyRule::new(vec![], vec![operation.build().unwrap()]);
        let namespace = Namespace::new("shop").unwrap();
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &namespace, "p").unwrap();
        Policy::new(key, action, vec![rule])
    }

    /// What a snapshot of a process with a setting says of a path, of callers and to others.
    fn permits(form: PathForm, policy: &Policy, path: &str) -> bool {
        let path = form.canonical(path).unwrap();
        let web = Workload::new("shop", "web", "web").unwrap();
        let policies = [Arc::new(policy.clone())];
        let local = Local::new(web, DefaultAction::Allow);
        let local = local.with_egress(DefaultAction::Allow, policies).unwrap();
        let mut settings = Settings::of(local);
        settings.paths = form;
        let change = Change::update(SourceId::new("t"), vec![Op::put(policy.clone())]);
        let snapshot = Snapshot::new(settings).apply(change);
        let headers = HeaderMap::new();
        let view = RequestView::Http(HttpView::new(&Method::GET, &path, None, &headers));
        let local = Arc::clone(&snapshot.settings().local);
        let out = decide(local.egress(), &Peer::Local, &view, &mut ()).permit();
        let stranger = Peer::Unauthenticated;
        let into = snapshot.authorize(&local, &stranger, &view).permit();
        assert_eq!(into.is_ok(), out.is_ok(), "{policy:?} {path}");
        into.is_ok()
    }

    #[test]
    fn what_is_decoded_in_requests_is_decoded_in_policies() {
        let decode = PathForm::default().decode_slashes(true);
        // The paths and notPaths, a request, whether a DENY leaves it, whether an ALLOW permits it.
        for (form, paths, not, path, left, allowed) in [
            (
                both(),
                &["/repos/a%2Fb"][..],
                &[][..],
                "/repos/a%2Fb",
                false,
                true,
            ),
            (both(), &["/repos/a%2fb"], &[], "/repos/a/b", false, true),
            (both(), &["/repos/a%5Cb"], &[], "/repos/a\\b", false, true),
            (both(), &["/repos/a%2Fb"], &[], "/repos/a", true, false),
            (both(), &["/repos/a%2F*"], &[], "/repos/a%2Fx", false, true),
            (both(), &["*%2Fadmin"], &[], "/x%2fadmin", false, true),
            (both(), &["/a%2F%2Fb"], &[], "/a%2F%2Fb", false, true),
            (both(), &["/a/%2F*"], &[], "/a//b", false, true),
            (both(), &[], &["/repos/a%2Fb"], "/repos/a%2Fb", true, false),
            (
                both(),
                &["/repos/*"],
                &["*%5Cb"],
                "/repos/a%5cb",
                true,
                false,
            ),
            (decode, &["/a%2Fb"], &[], "/a%2Fb", false, true),
            (decode, &["/a%2F%2Fb"], &[], "/a%2F%2Fb", false, false),
            (
                decode,
                &["/a%2F%2Fb", "/a/b"],
                &[],
                "/a%2F%2Fb",
                false,
                true,
            ),
            // Dot segments that come of it have no single meaning in a pattern: all is denied.
            (both(), &["/a%2F..%2Fb"], &[], "/b", false, false),
            (both(), &["*%5C..%5Cb"], &[], "/c", false, false),
            (both(), &[], &["/a%2F.*", "/a%2F.%2F*"], "/c", false, false),
            // Without the setting the escapes are what they are.
            (
                PathForm::default(),
                &["/a%2Fb"],
                &[],
                "/a%2Fb",
                false,
                false,
            ),
            (PathForm::default(), &["/a%2Fb"], &[], "/a/b", true, false),
        ] {
            let what = format!("{form:?} {paths:?} {not:?} {path}");
            let deny = permits(form, &policy(Action::Deny, paths, not), path);
            assert_eq!(deny, left, "DENY {what}");
            let allow = permits(form, &policy(Action::Allow, paths, not), path);
            assert_eq!(allow, allowed, "ALLOW {what}");
        }
    }

    proptest! {
        /// Whatever the setting, a DENY of a path denies a request with that path.
        #[test]
        fn a_deny_matches_the_path_that_it_names(
            path in "(/|/[a-c]|%2F|%5C|%2f|:|%C3%BC|\\.){1,8}", merge: bool, decode: bool,
        ) {
            let path = format!("/{path}");
            let form = PathForm::default().merge_slashes(merge).decode_slashes(decode);
            if Operation::builder().paths([&path]).build().is_ok() {
                prop_assert!(!permits(form, &policy(Action::Deny, &[&path], &[]), &path));
            }
        }
    }
}
