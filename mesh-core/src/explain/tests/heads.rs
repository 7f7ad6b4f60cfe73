//! Which fields are sent, and which an answer has.

use super::*;

fn changes(of: &[(&'static str, &'static str)]) -> Fallible<HeaderChanges> {
    let none = Ok(HeaderChanges::default());
    let all = of.iter().fold(none, |changes, (name, value)| {
        let name = HeaderName::from_static(name);
        changes?.set(name, HeaderValue::from_static(value))
    });
    Ok(all?)
}

fn shown(fields: &Fields) -> Vec<String> {
    let mut all: Vec<_> = fields
        .shown()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    all.sort();
    all
}

/// A route that edits requests and answers leads to `cart`, to Services that cannot answer, and to a plain
/// endpoint.
fn edited(request: HeaderChanges) -> Fallible<Snapshot> {
    let cors = Cors::new().allow_origin("https://a.lab")?;
    let filters = vec![
        Filter::RequestHeaders(request),
        Filter::ResponseHeaders(changes(&[("x-out", "1")])?),
        Filter::Cors(Arc::new(cors)),
    ];
    let rule = |path: &str, name: &str| -> Fallible<Rule> {
        let to = vec![To::new(service(name), 80, 1)?];
        Ok(Rule::to(to)
            .with_filters(filters.clone())
            .when(under(path)?))
    };
    let mut ops = backend("empty", &[])?;
    let slice = Slice::new(
        key(Kind::EndpointSlice, "plain-1"),
        service("plain"),
        vec![SlicePort::new("http", 8080)],
        vec![SliceHost::new(Host::Address([10, 0, 0, 9].into()))],
        Transport::Plain,
    );
    let port = ServicePort::new("http", 80, AppProtocol::Http1);
    ops.push(Op::put(Service::new(service("plain"), vec![port])));
    ops.push(Op::put(slice));
    ops.push(route(vec![
        rule("/cart", "cart")?,
        rule("/gone", "gone")?,
        rule("/empty", "empty")?,
        rule("/plain", "plain")?,
    ])?);
    world(ops)
}

/// What the mesh answers in place of a server is no answer of the route; what the agent of a server
/// answers passes through the route as any answer does.
#[test]
fn an_answer_has_the_fields_of_the_route_if_it_comes_from_a_server() -> Fallible {
    let snapshot = edited(changes(&[])?)?;
    let of_route = [
        "access-control-allow-origin: https://a.lab",
        "vary: origin",
        "x-out: 1",
    ];
    for (line, wanted, fields) in [
        ("GET http://cart/cart", "sent", &of_route[..]),
        ("GET http://cart/plain", "sent", &of_route),
        // By the policy of cart itself.
        ("POST http://cart/cart", "refused 403 denied", &of_route),
        ("GET http://cart/gone", "refused 500 backend-missing", &[]),
        ("GET http://cart/empty", "refused 503 no-endpoint", &[]),
        ("GET http://cart/other", "refused 404 no-route", &[]),
    ] {
        let question = Question::parse(line)?.from(WEB.parse()?);
        let question = question.header("origin: https://a.lab")?;
        let seen = explain(&Scene::new(&snapshot, &web()), &question);
        assert_eq!(verdict(&seen), wanted, "{line}");
        assert_eq!(shown(&seen.response), fields, "{line}");
        assert_eq!(seen.origin.is_some(), !fields.is_empty(), "{line}");
    }
    Ok(())
}

/// What belongs to the connection of the caller stays there, and the place in a trace is the agent's own.
#[test]
fn what_is_sent_is_what_the_next_hop_sees() -> Fallible {
    let own = "traceparent: (the agent's own)";
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let b3 = "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    let set = &[("traceparent", "00-x"), ("b3", "0")][..];
    for (asked, filter, wanted) in [
        (&[][..], &[][..], &[own][..]),
        (
            &[parent, "tracestate: a=b"],
            set,
            &["b3: 0", own, "tracestate: a=b"],
        ),
        (&["traceparent: none", "tracestate: a=b"], &[], &[own]),
        // One that the caller speaks is written in that form, too.
        (&[b3], set, &["b3: (the agent's own)", own]),
        (
            &[
                "connection: close, x-hop, cookie",
                "x-hop: 1",
                "keep-alive: 5",
                "cookie: a=1",
                "te: gzip",
            ],
            &[],
            &["cookie: (hidden)", own],
        ),
        (
            &["te: trailers", "upgrade: h2c"],
            &[],
            &["connection: te", "te: trailers", own],
        ),
        (
            &["connection: Upgrade", "upgrade: websocket"],
            &[],
            &["connection: upgrade", own, "upgrade: websocket"],
        ),
    ] {
        let snapshot = edited(changes(filter)?)?;
        let mut question = Question::parse("GET http://cart/plain")?.from(WEB.parse()?);
        for field in asked {
            question = question.header(field)?;
        }
        let seen = explain(&Scene::new(&snapshot, &web()), &question);
        let sent = seen.sent.ok_or("it is sent")?;
        assert_eq!(shown(&sent.headers), wanted, "{asked:?} {filter:?}");
    }
    Ok(())
}

/// Only a server of the mesh counts the fields once more that a route has added.
#[test]
fn fields_that_a_route_adds_are_counted_where_they_are_read() -> Fallible {
    let snapshot = edited(changes(&[("x-tier", "gold")])?)?;
    for (path, most, wanted) in [
        ("plain", 98, "sent"),
        ("plain", 99, "refused 431 too-many-fields"),
        ("cart", 97, "sent"),
        ("cart", 98, "refused 431 too-many-fields"),
    ] {
        let question = Question::parse(&format!("GET http://cart/{path}"))?.from(WEB.parse()?);
        let fields = (0..most).try_fold(question, |q, n| q.header(&format!("x-{n}: 1")));
        let seen = explain(&Scene::new(&snapshot, &web()), &fields?);
        assert_eq!(verdict(&seen), wanted, "{path} {most}");
    }
    Ok(())
}
