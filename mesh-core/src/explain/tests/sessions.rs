//! Sessions, as they are explained.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::SET_COOKIE;

use super::*;
use crate::authorize::HttpView;
use crate::traffic::{
    Blocks, CookieLifetime, SessionPersistence, SessionType, Target, TrafficPolicy,
};

/// The cookie that an endpoint of `cart` hands out, the last of its endpoints.
fn token(snapshot: &Snapshot) -> Fallible<String> {
    let request = Request::get("http://cart/").body(())?;
    let view = RequestView::Http(HttpView::of(&request));
    let (to, mut draw) = (Destination::Authority("cart"), Draw::new(1));
    let planned = plan(snapshot, &web(), to, &view, &mut draw, &mut ());
    let planned = planned.map_err(|refused| refused.reason)?;
    let session = planned.session().ok_or("a session")?;
    let set = snapshot.service(&service("cart")).ok_or("cart")?;
    let set = set.endpoints(80).ok_or("its endpoints")?;
    let last = set.members().last().ok_or("one")?;
    let (now, mut headers) = (UNIX_EPOCH + Duration::from_secs(1_000), HeaderMap::new());
    session.answered(&last.endpoint, now, &mut headers);
    let cookie = headers[SET_COOKIE].to_str()?;
    Ok(cookie.split(';').next().unwrap_or_default().into())
}

#[test]
fn what_a_token_leads_to_is_taken() -> Fallible {
    let cookie = SessionPersistence::new(SessionType::Cookie(CookieLifetime::Session));
    let blocks = Blocks {
        session: Some(cookie.named("stay")?.into()),
        ..Blocks::default()
    };
    let target = Target::Service(service("cart"), None);
    let policy = TrafficPolicy::new(key(Kind::TrafficPolicy, "stay"), vec![target], blocks)?;
    let snapshot = world(vec![Op::put(policy)])?;
    let seen = |found, stays| SessionSeen {
        name: "stay".into(),
        found,
        stays,
        object: Some("TrafficPolicy/shop/stay".into()),
    };
    let new = ask(&snapshot, "GET http://cart/")?;
    assert_eq!(new.session, Some(seen(false, false)));
    assert!(
        new.settings
            .iter()
            .any(|set| set.name == "sessionPersistence")
    );
    let token = token(&snapshot)?;
    let (local, question) = (
        web(),
        Question::parse("GET http://cart/")?.from(WEB.parse()?),
    );
    let question = question.header(&format!("cookie: {token}"))?;
    let scene = Scene::new(&snapshot, &local);
    for draw in 0..20 {
        let old = explain(&scene, &question.clone().draw(draw));
        assert_eq!(old.session, Some(seen(true, true)));
        assert_eq!(old.verdict.endpoint.as_deref(), Some("10.0.0.2:8443"));
    }
    // Its endpoint is gone.
    let gone = snapshot.apply(Change::update(SourceId::new("t"), backend("cart", &[1])?));
    let moved = explain(&Scene::new(&gone, &local), &question);
    assert_eq!(moved.session, Some(seen(true, false)));
    assert_eq!(moved.verdict.endpoint.as_deref(), Some("10.0.0.1:8443"));
    Ok(())
}
