//! Splits in which users stay, as they are explained.

use super::*;
use crate::balance::{HashCookie, HashKey};
use crate::traffic::{Blocks, Target, TrafficPolicy, TrafficSplit};

/// A split of nine to one whose users stay by a key.
fn split(by: HashKey) -> Fallible<Snapshot> {
    let to = |name, weight| To::new(service(name), 80, weight);
    let rule = Rule::to(vec![to("cart", 9)?, to("v2", 1)?]);
    let blocks = Blocks {
        split: Some(TrafficSplit::by(by)?.into()),
        ..Blocks::default()
    };
    let target = Target::Route(key(Kind::HttpRoute, "cart"), None);
    let policy = TrafficPolicy::new(key(Kind::TrafficPolicy, "stay"), vec![target], blocks)?;
    world(vec![route(vec![rule])?, Op::put(policy)])
}

fn of(question: &str) -> Fallible<Question> {
    let mut parts = question.split(" | ");
    let line = parts.next().unwrap_or_default();
    let question = Question::parse(line)?.from(WEB.parse()?);
    Ok(parts.try_fold(question, Question::header)?)
}

#[test]
fn the_key_that_leads_to_a_part_is_named() -> Fallible {
    let header = HashKey::Header("x-user".parse()?);
    let cookie = |ttl| HashCookie::new("user", None, ttl).map(HashKey::Cookie);
    let (day, local) = (Some(Duration::from_secs(86_400)), web());
    for (by, question, key, found, handed) in [
        (
            header.clone(),
            "GET http://cart/ | x-user: u7",
            "header x-user",
            true,
            false,
        ),
        (header, "GET http://cart/", "header x-user", false, false),
        (
            cookie(day)?,
            "GET http://cart/ | cookie: user=u7",
            "cookie user",
            true,
            false,
        ),
        (cookie(day)?, "GET http://cart/", "cookie user", false, true),
        (
            cookie(None)?,
            "GET http://cart/",
            "cookie user",
            false,
            false,
        ),
    ] {
        let snapshot = split(by)?;
        let (scene, question) = (Scene::new(&snapshot, &local), of(question)?);
        let seen = explain(&scene, &question);
        let wanted = SplitBy {
            key: key.into(),
            found,
            handed,
            object: Some("TrafficPolicy/shop/stay".into()),
        };
        assert_eq!(seen.split_by, Some(wanted));
        assert_eq!(seen.response.0.contains_key("set-cookie"), handed);
        assert!(seen.settings.iter().any(|set| set.name == "trafficSplit"));
        // Seeds meet one backend where a key leads, and both where it is drawn.
        assert_eq!(
            seeds(&scene, &question, 1_000).len(),
            if found { 1 } else { 2 }
        );
        let shares = shares(&scene, &question, 1_000);
        let drawn = seen.split.iter().find(|share| share.drawn).ok_or("one")?;
        let to = Some((service(drawn.service.trim_end_matches(".shop")), 80));
        assert_eq!(shares[&to] == 1_000, found, "{shares:?}");
    }
    // No split, no key; and none where a route answers itself.
    let seen = ask(&world(Vec::new())?, "GET http://cart/")?;
    assert_eq!(seen.split_by, None);
    Ok(())
}
