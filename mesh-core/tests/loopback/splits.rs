//! Splits in which users stay.

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::header::{COOKIE, HOST, SET_COOKIE};
use ::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::balance::{HashCookie, HashKey};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, Filter, HeaderChanges, Parent, Route, Rule};
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy, TrafficSplit};

use crate::support::{Pair, Result, for_cart, get, h1, h2, origin, push, soon, text};

const PARTS: [&str; 2] = ["a", "b"];

/// A server that tells which part of the split a request was in.
async fn parts() -> Result<Pair> {
    let app = origin(async |request: Request<Incoming>| {
        let part = request.headers().get("x-part").map(HeaderValue::as_bytes);
        Response::new(Body::from(part.unwrap_or_default().to_vec()))
    });
    Pair::new(AppProtocol::Http1, app.await?).await
}

/// A split of `cart` by these weights, whose users stay by a key.
fn split(weights: [u32; 2], by: &HashKey) -> Result<Vec<Op>> {
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let mut backends = Vec::new();
    for (part, weight) in PARTS.into_iter().zip(weights) {
        let mark = HeaderChanges::new().set("x-part".parse()?, HeaderValue::from_static(part))?;
        let backend = Backend::new(cart.clone(), 80, weight)?;
        backends.push(backend.with_filters(vec![Filter::RequestHeaders(mark)]));
    }
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart")?;
    let parents = vec![Parent::new(cart, None)];
    let route = Route::new(key.clone(), parents, vec![Rule::to(backends)])?;
    let mut blocks = Blocks::default();
    blocks.split = Some(TrafficSplit::by(by.clone())?.into());
    let policy = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let policy = TrafficPolicy::new(policy, vec![Target::Route(key, None)], blocks)?;
    Ok(vec![Op::put(route), Op::put(policy)])
}

#[tokio::test]
async fn users_stay_while_weights_move_over_both_protocols_and_in_process() -> Result {
    let pair = parts().await?;
    let by = HashKey::Header("x-user".parse()?);
    let client = pair.web.client();
    let (mut one, mut two) = (h1(pair.outbound).await?, h2(pair.outbound).await?);
    let mut before = BTreeMap::new();
    for weights in [[70, 30], [40, 60]] {
        push(&pair, split(weights, &by)?).await?;
        let mut met = BTreeMap::new();
        for n in 0..60 {
            let user = HeaderValue::from_str(&format!("user-{n}"))?;
            let mut asked = get("http://cart/");
            asked.headers_mut().insert("x-user", user.clone());
            let part = text(soon(client.send(asked)).await?).await?;
            for nth in 0..2 {
                let mut asked = for_cart("/");
                asked.headers_mut().insert("x-user", user.clone());
                let answer = match nth {
                    0 => soon(one.send_request(asked)).await??,
                    _ => {
                        asked.headers_mut().remove(HOST);
                        *asked.uri_mut() = "http://cart/".parse()?;
                        soon(two.send_request(asked)).await??
                    }
                };
                assert_eq!(text(answer).await?, part, "{user:?}");
            }
            met.insert(n, part);
        }
        assert!(PARTS.iter().all(|part| met.values().any(|met| met == part)));
        for (user, part) in &before {
            // All that move go where the weight has grown.
            assert!(met[user] == *part || met[user] == "b", "{user}");
        }
        before = met;
    }
    Ok(())
}

#[tokio::test]
async fn a_cookie_that_is_handed_out_keeps_its_user() -> Result {
    let pair = parts().await?;
    let hour = Some(Duration::from_secs(3_600));
    let by = HashKey::Cookie(HashCookie::new("part", Some("/"), hour)?);
    push(&pair, split([50, 50], &by)?).await?;
    let client = pair.web.client();
    let mut users = Vec::new();
    for _ in 0..40 {
        let answer = soon(client.send(get("http://cart/"))).await?;
        let cookie = answer.headers()[SET_COOKIE].to_str()?.to_owned();
        assert!(cookie.ends_with("; Max-Age=3600; Path=/; HttpOnly"));
        let pair = cookie.split(';').next().unwrap_or_default();
        users.push((HeaderValue::from_str(pair)?, text(answer).await?));
    }
    for part in PARTS {
        assert!(users.iter().any(|(_, met)| met == part));
    }
    for weights in [[50, 50], [20, 80]] {
        if weights == [20, 80] {
            push(&pair, split(weights, &by)?).await?;
        }
        for (cookie, part) in &users {
            let mut asked = get("http://cart/");
            asked.headers_mut().insert(COOKIE, cookie.clone());
            let answer = soon(client.send(asked)).await?;
            assert!(!answer.headers().contains_key(SET_COOKIE));
            let met = text(answer).await?;
            let moved = weights == [20, 80] && met == "b";
            assert!(met == *part || moved, "{cookie:?}");
        }
    }
    Ok(())
}
