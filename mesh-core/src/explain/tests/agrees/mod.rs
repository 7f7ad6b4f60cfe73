//! For any objects and any request an explanation says what is decided: by the routes, the policies of
//! both sides, the choice of an endpoint, and of each copy.
//!
//! `PROPTEST_CASES` says how many worlds are asked.

mod live;
mod world;

use std::collections::BTreeMap;
use std::env;

use proptest::prelude::*;

use super::*;
use world::{Ask, NOW, World};

/// How many there are if `PROPTEST_CASES` is not set.
const CASES: u32 = 300;

/// What is said of a request, by aspect.
type Said = BTreeMap<&'static str, String>;

fn say(said: &mut Said, aspect: &'static str, text: Option<String>) {
    if let Some(text) = text {
        said.insert(aspect, text);
    }
}

/// Fields without the host, which stands in the target too, and without the IDs of spans.
fn of_head(headers: &HeaderMap) -> String {
    let fields = headers.iter().filter(|(name, _)| *name != HOST);
    let mut fields: Vec<_> = fields
        .map(|(name, value)| match name.as_str() {
            "traceparent" | "b3" => format!("{name}: ..."),
            _ => format!("{name}: {value:?}"),
        })
        .collect();
    fields.sort();
    fields.join(", ")
}

fn question(ask: &Ask) -> Fallible<Question> {
    let mut question = Question::parse(&ask.line)?.draw(ask.seed);
    for field in &ask.fields {
        question = question.header(field)?;
    }
    if let Some(address) = ask.address {
        question = question.address(address);
    }
    if let Some(server) = ask.sni {
        question = question.sni(server)?;
    }
    Ok(question.from(format!("spiffe://td.test/ns/{}", ask.caller).parse()?))
}

/// What an explanation says, and of each copy that is sent.
fn explained(world: &World, ask: &Ask) -> Fallible<(Said, Vec<Said>)> {
    let scene = Scene::new(&world.snapshot, &world.local).at(NOW);
    let seen = explain(&scene, &question(ask)?);
    // Written and read again, it is the same.
    let text = serde_json::to_string(&seen)?;
    assert_eq!(
        text,
        serde_json::to_string(&serde_json::from_str::<Explanation>(&text)?)?
    );
    let mut said = Said::new();
    say(
        &mut said,
        "route",
        seen.route
            .as_ref()
            .map(|r| format!("{} {}", r.object, r.rule)),
    );
    of_verdict(&mut said, &seen.verdict);
    say(&mut said, "answer", Some(of_head(&seen.response.0)));
    let opaque = ask.is_opaque();
    let sent = seen.sent.as_ref().filter(|_| !opaque);
    say(&mut said, "sent", sent.map(of_sent));
    let from = |name: &str| {
        let setting = seen.settings.iter().find(|setting| setting.name == name)?;
        setting.object.clone()
    };
    say(&mut said, "retry of", from("retry"));
    say(&mut said, "timeouts of", from("timeouts"));
    say(&mut said, "proxy of", from("proxyProtocol"));
    let session = seen.session.as_ref().map(|s| {
        let (name, object) = (&s.name, &s.object);
        format!("{name} {} {} {object:?}", s.found, s.stays)
    });
    say(&mut said, "session", session);
    let repeats = seen.repeats.as_ref();
    let repeats = repeats.map(|r| {
        let (attempts, kept) = (r.attempts, r.kept);
        format!("{attempts} {} {kept} {}", r.idempotent, r.budget)
    });
    say(&mut said, "repeats", repeats);
    let hedges = seen.hedges.as_ref().map(|h| {
        let (attempts, delay, missed) = (h.attempts, h.delay_millis, &h.missed);
        let object = h.object.as_deref().unwrap_or_default();
        format!("{attempts} {delay} {missed:?} {} {object}", h.budget)
    });
    say(&mut said, "hedges", hedges);
    let sent = seen.copies.iter().filter_map(|copy| {
        let mut said = Said::new();
        of_verdict(&mut said, copy.verdict.as_ref()?);
        say(&mut said, "sent", copy.sent.as_ref().map(of_sent));
        Some(said)
    });
    Ok((said, sent.collect()))
}

fn of_verdict(said: &mut Said, verdict: &Verdict) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let status = verdict.status.unwrap_or_default();
    let words = match verdict.outcome {
        Outcome::Answered => format!("answered {status}"),
        Outcome::Refused => format!(
            "refused {status} {} {:?}",
            text(&verdict.reason),
            verdict.policy
        ),
        Outcome::Sent => format!("sent to {}", text(&verdict.endpoint)),
    };
    say(said, "verdict", Some(words));
    say(
        said,
        "grpc",
        verdict.grpc_status.map(|code| code.to_string()),
    );
}

fn of_sent(head: &Head) -> String {
    let (method, path, query) = (&head.method, &head.path, &head.query);
    let fields = of_head(&head.headers.0);
    format!(
        "{method} {:?} {path} {query:?} {fields}",
        Some(&head.authority)
    )
}

/// One world and its clients: each asks once, and again later with what the first answer has handed out.
fn check(seed: u64, seen: &mut BTreeMap<String, u32>) -> Fallible {
    for nth in 0..4 {
        let mut ask = Ask::drawn(&mut Draw::new(seed ^ (nth << 60)));
        if let Some(token) = compare((seed, 0), &ask, seen)? {
            ask.show(&token);
            compare((seed, 30), &ask, seen)?;
        }
    }
    Ok(())
}

/// Compares what is said of a request with what is decided, in a world that is made anew for each, because a
/// decision counts. Returns the field that shows its session.
fn compare(
    (seed, later): (u64, u8),
    ask: &Ask,
    seen: &mut BTreeMap<String, u32>,
) -> Fallible<Option<String>> {
    let world = || World::drawn(&mut Draw::new(seed), later);
    let (said, copies) = explained(&world()?, ask)?;
    let mut decided = live::decided(&world()?, ask, None)?.ok_or("it is decided")?;
    let token = decided.remove(live::TOKEN);
    if said != decided {
        return Err(format!("{ask:#?}: explained {said:#?}, decided {decided:#?}").into());
    }
    let sent = live::copies(&world()?, ask)?;
    let live = (0..sent).map(|nth| live::decided(&world()?, ask, Some(nth)));
    let live = live.collect::<Fallible<Vec<_>>>()?;
    let live: Vec<_> = live.into_iter().flatten().collect();
    if copies != live {
        return Err(format!("{ask:#?}: copies {copies:#?}, decided {live:#?}").into());
    }
    *seen.entry("copies".into()).or_default() += u32::try_from(sent)?;
    for kind in kinds(&said, ask) {
        *seen.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(token)
}

/// What a request came to.
fn kinds<'s>(said: &'s Said, ask: &Ask) -> Vec<&'s str> {
    let mut words = said["verdict"].split(' ');
    let mut kinds = vec![match (words.next(), words.nth(1)) {
        (Some("refused"), Some(reason)) => reason,
        (word, _) => word.unwrap_or_default(),
    }];
    let of = |aspect, word: &str| said.get(aspect).map(|text| text.contains(word));
    kinds.extend(match of("hedges", "Some(") {
        Some(true) => Some("hedge missed"),
        Some(false) => Some("hedged"),
        None => None,
    });
    kinds.extend(match of("session", " true true ") {
        Some(true) => Some("session stays"),
        Some(false) => Some("session begins"),
        None => None,
    });
    kinds.extend(
        of("session", " true false ")
            .filter(|is| *is)
            .map(|_| "session moves"),
    );
    kinds.extend(said.get("proxy of").map(|_| "proxied"));
    let route = said.get("route").filter(|_| ask.is_opaque());
    kinds.extend(route.and_then(|route| Some(route.split_once('/')?.0)));
    kinds
}

/// A request that waits for 100 and wishes for a WebSocket has copies, which do not wish for one.
#[test]
fn a_copy_never_leaves_http() {
    let seen = &mut BTreeMap::new();
    check(2_155_236_573_960_079_561, seen).expect("it is explained as it is decided");
    assert!(seen.contains_key("copies"));
}

#[test]
fn an_explanation_says_what_is_decided() {
    let mut config = ProptestConfig::default();
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seen = std::cell::RefCell::new(BTreeMap::new());
    let cases = config.cases;
    proptest!(config, |(seed: u64)| {
        let checked = check(seed, &mut seen.borrow_mut());
        prop_assert!(checked.is_ok(), "seed {seed}: {}", checked.unwrap_err());
    });
    let seen = seen.into_inner();
    println!("{cases} worlds, 4 clients each: {seen:?}");
    // Each comes about a dozen times or more in 300 worlds, and at random: more than one is not
    // asked for. None agrees only because it never comes about.
    for kind in [
        "answered",
        "copies",
        "denied",
        "hedge missed",
        "hedged",
        "no-endpoint",
        "proxied",
        "sent",
        "session begins",
        "session moves",
        "session stays",
        "TCPRoute",
        "TLSRoute",
    ] {
        assert!(seen.contains_key(kind), "no {kind} in {seen:?}");
    }
}
