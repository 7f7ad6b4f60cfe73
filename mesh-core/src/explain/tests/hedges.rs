//! What is said of requests that a policy hedges.

use super::*;
use crate::retry::HedgePolicy;
use crate::traffic::{Blocks, Target, TrafficPolicy};

/// Where a request is hedged and where it is repeated, with the policy that says so.
#[test]
fn hedges_are_shown_with_their_policy_or_why_there_are_none() -> Fallible {
    let put = |name: &str, targets: Vec<Target>, blocks: Blocks| {
        let policy = TrafficPolicy::new(key(Kind::TrafficPolicy, name), targets, blocks)?;
        Ok::<_, Box<dyn std::error::Error>>(Op::put(policy))
    };
    let retry = Blocks {
        retry: Some(RetryPolicy::new(3).into()),
        ..Blocks::default()
    };
    let hedge = HedgePolicy::new(3, Duration::from_millis(50))?.on_status(503)?;
    let hedge = Blocks {
        hedge: Some(hedge.into()),
        ..Blocks::default()
    };
    let to_cart = vec![Target::Service(service("cart"), None)];
    let snapshot = world(vec![
        put("all", Vec::new(), retry)?,
        put("cart", to_cart, hedge)?,
    ])?;
    let get = ask(&snapshot, "GET http://cart/")?;
    let hedges = get.hedges.clone().ok_or("it is hedged")?;
    assert_eq!((hedges.attempts, hedges.delay_millis), (3, 50));
    assert_eq!(hedges.object.as_deref(), Some("TrafficPolicy/shop/cart"));
    assert!(hedges.budget && hedges.missed.is_none() && get.repeats.is_none());
    let block = |name: &str| get.settings.iter().find(|setting| setting.name == name);
    let shown = block("hedge").ok_or("the block is shown")?;
    assert_eq!(shown.object.as_deref(), Some("TrafficPolicy/shop/cart"));
    assert_eq!(shown.value["hedgingDelay"], "50ms");
    assert!(block("retry").is_some() && block("retryConstraint").is_some());
    // What is not hedged is repeated, as the farther policy says.
    let grpc = "content-type: application/grpc";
    let (asks, websocket) = ("connection: upgrade", "upgrade: websocket");
    let with = |line: &str, fields: &[&str]| -> Fallible<Explanation> {
        let mut question = Question::parse(line)?.from(WEB.parse()?);
        for field in fields {
            question = question.header(field)?;
        }
        Ok(explain(&Scene::new(&snapshot, &web()), &question))
    };
    for (line, fields, why, kept) in [
        ("POST http://cart/", &[][..], "not idempotent", true),
        ("POST http://cart/", &[grpc], "a call of gRPC", true),
        // Nothing has switched when it is sent again.
        ("GET http://cart/", &[asks, websocket], "leave HTTP", true),
        (
            "PUT http://cart/",
            &["expect: 100-continue"],
            "waits to be asked",
            false,
        ),
    ] {
        let seen = with(line, fields)?;
        let missed = seen.hedges.and_then(|hedges| hedges.missed);
        assert!(
            missed.as_ref().is_some_and(|m| m.contains(why)),
            "{missed:?}"
        );
        let repeats = seen.repeats.map(|r| (r.attempts, r.kept));
        assert_eq!(repeats, Some((3, kept)), "{line} {fields:?}");
    }
    // A wish that is not passed on is as if unsaid.
    let other = with("GET http://cart/", &[asks, "upgrade: h2c"])?;
    assert_eq!(other.hedges, Some(hedges));
    // A rule's own word is nearer.
    let rule = Rule::to(vec![To::new(service("cart"), 80, 1)?]);
    let rule = rule.with_retry(RetryPolicy::new(1));
    let source = SourceId::new("route");
    let snapshot = snapshot.apply(Change::update(source, vec![route(vec![rule])?]));
    let get = ask(&snapshot, "GET http://cart/")?;
    assert!(get.hedges.is_none());
    assert_eq!(get.repeats.map(|repeats| repeats.attempts), Some(1));
    Ok(())
}
