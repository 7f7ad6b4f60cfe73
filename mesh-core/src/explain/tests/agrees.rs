//! For any objects and any request an explanation says what `plan`, `decide` and `pick` decide.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::authorize::{HttpView, decide};
use crate::balance::pick;

const NAMES: [&str; 3] = ["cart", "v2", "db"];
const PATHS: [&str; 4] = ["/", "/a", "/a/b", "/c"];
const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
const CALLERS: [&str; 3] = ["web", "cart", "other"];

/// A path, a method, backends with weights, and whether it redirects instead.
type DrawnRule = (usize, usize, Vec<(usize, u32)>, bool);

/// Indices into the names above, so that what is drawn meets often.
#[derive(Debug, Clone)]
struct Drawn {
    rules: Vec<DrawnRule>,
    policies: Vec<(bool, usize, usize, usize, usize)>,
    hosts: Vec<usize>,
    allow: bool,
    ask: (usize, usize, usize, usize, u64),
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let backends = vec((0..4_usize, 0..3_u32), 0..4);
    let rule = (0..4_usize, 0..4_usize, backends, any::<bool>());
    let policy = (
        any::<bool>(),
        0..3_usize,
        0..4_usize,
        0..4_usize,
        0..4_usize,
    );
    let ask = (0..3_usize, 0..4_usize, 0..3_usize, 0..3_usize, any::<u64>());
    let all = (
        vec(rule, 0..4),
        vec(policy, 0..5),
        vec(0..4_usize, 3),
        any::<bool>(),
        ask,
    );
    all.prop_map(|(rules, policies, hosts, allow, ask)| Drawn {
        rules,
        policies,
        hosts,
        allow,
        ask,
    })
}

fn objects(drawn: &Drawn) -> Fallible<Vec<Op>> {
    let mut ops = Vec::new();
    for (n, (name, hosts)) in NAMES.iter().zip(&drawn.hosts).enumerate() {
        let hosts: Vec<_> = (0..*hosts)
            .map(|h| u8::try_from(n * 10 + h))
            .collect::<Result<_, _>>()?;
        ops.extend(backend(name, &hosts)?);
    }
    let mut rules = Vec::new();
    for (path, method, backends, redirect) in &drawn.rules {
        let mut when = Match::path(PathMatch::literal(PATHS[*path], true)?);
        if let Some(method) = METHODS.get(*method) {
            when = when.method(method.parse()?);
        }
        let to = |(name, weight): &(usize, u32)| {
            let name = NAMES.get(*name).unwrap_or(&"gone");
            To::new(service(name), 80, *weight)
        };
        let rule = match redirect {
            true => Rule::with(crate::route::Outcome::Redirect(Redirect::new())),
            false => Rule::to(backends.iter().map(to).collect::<Result<_, _>>()?),
        };
        rules.push(rule.when(vec![when]));
    }
    if !rules.is_empty() {
        ops.push(route(rules)?);
    }
    for (n, (deny, caller, method, path, label)) in drawn.policies.iter().enumerate() {
        let from = match CALLERS.get(*caller) {
            Some(name) if !deny => callers(&[&format!("td.test/ns/shop/sa/{name}")])?,
            _ => vec![],
        };
        let mut operation = Operation::builder().paths([PATHS[*path]]);
        if let Some(method) = METHODS.get(*method) {
            operation = operation.methods([method]);
        }
        let rule = PolicyRule::new(from, vec![operation.build()?]);
        let action = if *deny { Action::Deny } else { Action::Allow };
        let policy = Policy::new(
            key(Kind::AuthorizationPolicy, &format!("p{n}")),
            action,
            vec![rule],
        );
        ops.push(Op::put(match NAMES.get(*label) {
            Some(label) => policy.select("app", label),
            None => policy,
        }));
    }
    Ok(ops)
}

/// What is decided, by the calls that a live request makes.
fn decided(snapshot: &Snapshot, local: &Local, drawn: &Drawn) -> Fallible<String> {
    let (to, path, method, caller, seed) = drawn.ask;
    let request = Request::builder()
        .method(METHODS[method])
        .uri(PATHS[path])
        .body(())?;
    let view = RequestView::Http(HttpView::of(&request));
    let mut draw = Draw::new(seed);
    let to = Destination::Authority(NAMES[to]);
    let planned = match plan(snapshot, local, to, &view, &mut draw, &mut ()) {
        Ok(planned) => planned,
        Err(refused) => return Ok(format!("{}", Error::from(refused).reason())),
    };
    let rule = planned.route().map(|(_, rule)| rule);
    let Some(backend) = planned.backend() else {
        return Ok(format!("{rule:?} answered"));
    };
    let set = match backend.find(snapshot) {
        Ok((_, set)) => set,
        Err(error) => return Ok(format!("{rule:?} {}", error.reason())),
    };
    let Ok(picked) = pick(set, backend.choice, Duration::ZERO, &[], &mut draw) else {
        return Ok(format!("{rule:?} no-endpoint"));
    };
    let name = backend.service.name();
    let callee = Workload::new("shop", name, name)?.label("app", name);
    let callee = Arc::new(Local::new(
        callee,
        snapshot.settings().local.default_action(),
    ));
    let served = snapshot.serve(&callee);
    let policy = served.policy_of(&callee).expect("it is served");
    let id = format!("spiffe://td.test/ns/shop/sa/{}", CALLERS[caller]);
    let peer = Peer::verified(id.parse()?, &"td.test".parse()?);
    Ok(match decide(policy, &peer, &view, &mut ()).permit() {
        Ok(_) => {
            let at = picked.member().endpoint.address();
            format!("{rule:?} {} {at}", backend.service)
        }
        Err(denied) => format!("{rule:?} denied {:?}", denied.policy.map(|p| p.to_string())),
    })
}

fn explained(snapshot: &Snapshot, local: &Local, drawn: &Drawn) -> Fallible<String> {
    let (to, path, method, caller, seed) = drawn.ask;
    let line = format!("{} http://{}{}", METHODS[method], NAMES[to], PATHS[path]);
    let id = format!("spiffe://td.test/ns/shop/sa/{}", CALLERS[caller]);
    let question = Question::parse(&line)?.from(id.parse()?).draw(seed);
    let seen = explain(&Scene::new(snapshot, local), &question);
    let rule = seen.route.as_ref().map(|route| route.rule);
    let verdict = &seen.verdict;
    let reason = || verdict.reason.clone().unwrap_or_default();
    Ok(match (verdict.outcome, &seen.backend) {
        (Outcome::Answered, _) => format!("{rule:?} answered"),
        (Outcome::Sent, Some(to)) => {
            let at = verdict.endpoint.clone().unwrap_or_default();
            format!("{rule:?} {} {at}", to.service)
        }
        (Outcome::Refused, Some(_)) if reason() == "denied" => {
            format!("{rule:?} denied {:?}", verdict.policy)
        }
        (Outcome::Refused, Some(_)) => format!("{rule:?} {}", reason()),
        (Outcome::Refused, None) => reason(),
        (Outcome::Sent, None) => "sent nowhere".into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_explanation_says_what_is_decided(drawn in drawn()) {
        let check = || -> Fallible<(String, String)> {
            let default = match drawn.allow {
                true => DefaultAction::Allow,
                false => DefaultAction::Deny,
            };
            let web = Workload::new("shop", "web", "web")?;
            let local = Local::new(web.clone(), default);
            let change = Change::update(SourceId::new("t"), objects(&drawn)?);
            let snapshot = Snapshot::new(Settings::new(web, default)).apply(change);
            Ok((explained(&snapshot, &local, &drawn)?, decided(&snapshot, &local, &drawn)?))
        };
        let (explained, decided) = check().map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(explained, decided);
    }
}
