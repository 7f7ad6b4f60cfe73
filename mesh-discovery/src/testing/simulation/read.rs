//! The reader of simulations, strict: what is not known is refused, with file, line and field.

use std::time::Duration;

use http::StatusCode;
use inmesh_core::explain::Question;
use inmesh_core::pki::clock::Span;
use inmesh_core::pki::id::{SpiffeId, TrustDomain};
use inmesh_core::simulate::{Fault, Latency, Load, Reached, Room};
use inmesh_core::snapshot::Problem;

use super::draft::{Change, Draft, How, What};
use super::expect::Expected;
use super::select::Selector;
use crate::manifest::strict::{Document, Fields, Unknown, Value, documents};
use crate::manifest::text::duration;
use crate::testing::cases::{API_VERSION, Documents, each, of_documents, texts};

/// The kind of a document with a simulation.
pub const SIMULATION: &str = "Simulation";

/// The most requests, behaviours, events and expectations of a document.
const PARTS: usize = 100;
/// The most endpoints that are named in one place.
const NAMED: usize = 1_000;
/// The most users of a request.
const USERS: i64 = 10_000;
/// The most requests that an endpoint works on at once, and that wait.
const ROOM: i64 = 1_000_000;
/// What stands for the number of a user.
const USER: &str = "{user}";

/// Documents, and the trust domain of the workload that asks.
type Of = (Documents, Option<TrustDomain>);

/// Reads the simulations of a file.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<(Of, Draft)>, Vec<Problem>> {
    let documents = documents(file, text).map_err(|error| vec![error.problem()])?;
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for document in &documents {
        match simulation(document) {
            Ok(simulation) => read.push(simulation),
            Err(found) => problems.extend(found),
        }
    }
    match problems.is_empty() {
        true => Ok(read),
        false => Err(problems),
    }
}

fn simulation(document: &Document) -> Result<(Of, Draft), Vec<Problem>> {
    if document.kind() != Some(SIMULATION) || document.api_version() != Some(API_VERSION) {
        let message = format!("is no document of kind {SIMULATION} ({API_VERSION})");
        return Err(vec![Problem::refused("", message).at(document.place(""))]);
    }
    let read = document.read(Unknown::Refuse, |fields| {
        let (of, lasts) = (fields.need("documents"), fields.need("duration"));
        let (seed, discovery) = (fields.get("seed"), fields.get("discovery"));
        let (requests, endpoints) = (fields.need("requests"), fields.get("endpoints"));
        let (events, expect) = (fields.get("events"), fields.get("expect"));
        let of = of.and_then(|of| of.object(of_documents));
        let lasts = lasts.and_then(|value| time(&value));
        let seed = or(seed, 0, |value| value.integer::<u32>().map(u64::from));
        let discovery = or(discovery, Duration::ZERO, time);
        let loads = requests.and_then(|list| distinct(&list, list_of(&list, load)?));
        let endpoints = or(endpoints, Vec::new(), |list| list_of(list, behaviour));
        let (loads, lasts) = (loads?, lasts?);
        let events = or(events, Vec::new(), |list| {
            list_of(list, |event| change(event, &loads, lasts))
        });
        let expected = or(expect, Vec::new(), |list| {
            list_of(list, |value| expected(value, lasts))
        });
        let draft = Draft {
            seed: seed?,
            duration: lasts,
            discovery: discovery?,
            endpoints: endpoints?,
            events: events?,
            expected: expected?,
            loads,
        };
        Some((of?, draft))
    });
    read.map(|read| read.value)
}

/// Refuses requests of one name: an event that names them would be of the first alone.
fn distinct(list: &Value<'_>, loads: Vec<Load>) -> Option<Vec<Load>> {
    let items = list.list_of(PARTS)?;
    let mut good = true;
    for (nth, (value, load)) in items.iter().zip(&loads).enumerate() {
        let first = loads.iter().position(|other| other.name == load.name);
        if let Some(first) = first.filter(|first| *first < nth) {
            let (name, path) = (&load.name, items[first].path());
            value.refuse(format_args!(
                "has the name {name:?}, as {path} has: give each a name of its own"
            ));
            good = false;
        }
    }
    good.then_some(loads)
}

/// What a field says, or what holds without it.
fn or<T>(
    value: Option<Value<'_>>,
    usual: T,
    read: impl FnOnce(&Value<'_>) -> Option<T>,
) -> Option<T> {
    match value {
        Some(value) => read(&value),
        None => Some(usual),
    }
}

/// What a field says, if it is there; the outer `None` is a problem.
fn maybe<T>(
    value: Option<Value<'_>>,
    read: impl FnOnce(&Value<'_>) -> Option<T>,
) -> Option<Option<T>> {
    or(value, None, |value| read(value).map(Some))
}

fn list_of<T>(list: &Value<'_>, read: impl Fn(&Value<'_>) -> Option<T>) -> Option<Vec<T>> {
    // All are read, for their problems.
    let items: Vec<_> = list.list_of(PARTS)?.iter().map(read).collect();
    items.into_iter().collect()
}

fn time(value: &Value<'_>) -> Option<Duration> {
    value.check(duration(value.text()?))
}

/// A number from 0 to `most`.
fn number(value: &Value<'_>, most: f64) -> Option<f64> {
    let number = value.number()?;
    if !(0.0..=most).contains(&number) {
        value.refuse(format_args!("{number} is not 0 to {most}"));
        return None;
    }
    Some(number)
}

fn selectors(value: &Value<'_>) -> Option<Vec<Selector>> {
    let items = value.list_of(NAMED)?;
    let each = items.iter().map(|item| Some(Selector::parse(item.text()?)));
    each.collect()
}

fn load(value: &Value<'_>) -> Option<Load> {
    value.object(|fields| {
        let (name, request) = (fields.get("name"), fields.need("request"));
        let (headers, from) = (fields.get("headers"), fields.get("from"));
        let (labels, users) = (fields.get("labels"), fields.get("users"));
        let (rate, callers) = (fields.need("rate"), fields.get("callers"));
        let arrival = fields.get("arrival");
        let request = request?;
        let name = or(name, request.text()?.to_owned(), |name| {
            Some(name.text()?.to_owned())
        });
        let count = maybe(users.clone(), |users| users.integer_in::<u32>(1, USERS))?;
        let whole = fields.whole();
        check_users(whole, users.as_ref(), &request, headers.as_ref())?;
        let from = maybe(from, |from| from.parsed::<SpiffeId>())?;
        let questions = (0..count.unwrap_or(1)).map(|user| {
            let user = user.to_string();
            let line = request.text()?.replace(USER, &user);
            let question = request.check(Question::parse(&line))?;
            let question = each(headers.clone(), question, |q, name, value| {
                q.header(&format!("{name}: {}", value.replace(USER, &user)))
            })?;
            let question = each(labels.clone(), question, |q, name, value| {
                q.label(&format!("{name}={value}"))
            })?;
            Some(match &from {
                Some(from) => question.from(from.clone()),
                None => question,
            })
        });
        let questions: Option<Vec<_>> = questions.collect();
        let rate = number(&rate?, 1e6);
        let callers = or(callers, 1, |value| value.integer_in(1, 1_000));
        let even = or(arrival, false, |value| {
            Some(value.choice(&["random", "even"])? == "even")
        });
        let questions = questions?;
        if questions.first().is_some_and(Question::is_opaque) {
            request.refuse("is a connection of opaque bytes; only requests are simulated");
            return None;
        }
        let mut load = Load::new(&name?, questions.first()?.clone(), rate?);
        (load.questions, load.callers, load.even) = (questions, callers?, even?);
        Some(load)
    })
}

/// Users and what stands for them come together.
fn check_users(
    whole: &Value<'_>,
    users: Option<&Value<'_>>,
    request: &Value<'_>,
    headers: Option<&Value<'_>>,
) -> Option<()> {
    let headers = texts(headers.cloned())?;
    let in_headers = headers
        .iter()
        .any(|(_, value)| value.text().is_some_and(|text| text.contains(USER)));
    match (users, in_headers || request.text()?.contains(USER)) {
        (Some(users), false) => {
            users.refuse(format_args!("says how many, and nothing has {USER} in it"));
            None
        }
        (None, true) => {
            whole.refuse(format_args!("has {USER} in it, and needs users"));
            None
        }
        _ => Some(()),
    }
}

fn behaviour(value: &Value<'_>) -> Option<(Vec<Selector>, How)> {
    value.object(|fields| {
        let of = fields.get("endpoints");
        let how = how(fields);
        let of = or(of, Vec::new(), selectors);
        let Some(how) = how? else {
            fields
                .whole()
                .refuse("says nothing of how endpoints behave");
            return None;
        };
        Some((of?, how))
    })
}

/// The inner `None` says nothing.
fn how(fields: &mut Fields<'_>) -> Option<Option<How>> {
    let (median, p99) = (fields.get("latencyMillis"), fields.get("p99Millis"));
    let (room, waits) = (fields.get("concurrency"), fields.get("queue"));
    let (fail, reached) = (fields.get("fail"), fields.get("connections"));
    let none = [&median, &p99, &room, &waits, &fail, &reached];
    if none.iter().all(|value| value.is_none()) {
        return Some(None);
    }
    let latency = latency(median, p99);
    let room = match (room, waits) {
        (None, Some(waits)) => {
            waits.refuse("is of concurrency, and there is no concurrency");
            None
        }
        (room, waits) => maybe(room, |room| {
            let at_once = room.integer_in(1, ROOM);
            let waiting = or(waits, 0, |waits| waits.integer_in(0, ROOM));
            Some(Room::new(at_once?, waiting?))
        }),
    };
    let fault = maybe(fail, |fail| fail.object(fault));
    let reached = maybe(reached, |value| {
        let choice = value.choice(&["serve", "refuse", "reset", "hang"])?;
        Some(match choice {
            "refuse" => Reached::Refuses,
            "reset" => Reached::Resets,
            "hang" => Reached::Hangs,
            _ => Reached::Serves,
        })
    });
    Some(Some(How {
        latency: latency?,
        room: room?,
        fault: fault?,
        reached: reached?,
    }))
}

fn latency(median: Option<Value<'_>>, p99: Option<Value<'_>>) -> Option<Option<Latency>> {
    let Some(median) = median else {
        if let Some(p99) = p99 {
            p99.refuse("is of latencyMillis, and there is no latencyMillis");
            return None;
        }
        return Some(None);
    };
    let millis = |value: &Value<'_>| {
        let millis = number(value, 3_600_000.0)?;
        Some(Duration::from_secs_f64(millis / 1_000.0))
    };
    let half = millis(&median)?;
    let most = or(p99, half, millis)?;
    median.check(Latency::new(half, most)).map(Some)
}

fn fault(fields: &mut Fields<'_>) -> Option<Fault> {
    let (percent, status) = (fields.get("percent"), fields.get("status"));
    let (grpc, after) = (fields.get("grpcStatus"), fields.get("retryAfter"));
    let percent = or(percent, 100.0, |value| number(value, 100.0));
    let status = maybe(status, |value| value.integer_in::<u16>(200, 599));
    let grpc = maybe(grpc, |value| value.integer_in::<u8>(1, 16));
    let after = maybe(after, time);
    let (status, grpc) = (status?, grpc?);
    if status.is_some() == grpc.is_some() {
        fields.whole().refuse("needs one of status and grpcStatus");
        return None;
    }
    let status = StatusCode::from_u16(status.unwrap_or(200)).ok()?;
    let mut fault = fields.whole().check(Fault::new(percent?, status))?;
    (fault.grpc, fault.retry_after) = (grpc, after?);
    Some(fault)
}

fn change(value: &Value<'_>, loads: &[Load], ends: Duration) -> Option<Change> {
    value.object(|fields| {
        let (at, lasts) = (fields.need("at"), fields.get("for"));
        let (of, every) = (fields.get("endpoints"), fields.get("every"));
        let (restart, leave) = (fields.get("restart"), fields.get("leave"));
        let (rate, requests) = (fields.get("rate"), fields.get("requests"));
        let how = how(fields)?;
        let whole = fields.whole();
        let at = begins(&at?, ends)?;
        let many = every.is_some() || of.is_some();
        let mut found = Vec::new();
        if let Some(how) = how {
            found.push(What::Behave(how));
        }
        if let Some(restart) = restart {
            if let Some(lasts) = &lasts {
                lasts.refuse("is not of a restart, which has drain and down");
                return None;
            }
            found.push(restart.object(|fields| {
                let (drain, down) = (fields.need("drain"), fields.need("down"));
                Some(What::Restart(time(&drain?)?, time(&down?)?))
            })?);
        }
        if let Some(leave) = leave {
            if !leave.boolean()? {
                leave.refuse("is true, or absent");
                return None;
            }
            found.push(What::Leave);
        }
        if let Some(rate) = &rate {
            if many {
                rate.refuse("is of requests, not of endpoints");
                return None;
            }
            let nth = nth(loads, requests.as_ref(), whole)?;
            found.push(What::Rate(nth, number(rate, 1e6)?));
        } else if let Some(requests) = &requests {
            requests.refuse("is of a rate, and there is no rate");
            return None;
        }
        let (Some(what), true) = (found.pop(), found.is_empty()) else {
            whole.refuse("needs one of restart, leave, rate, and how endpoints behave");
            return None;
        };
        Some(Change {
            at,
            lasts: maybe(lasts, time)?,
            of: or(of, Vec::new(), selectors)?,
            every: or(every, Duration::ZERO, time)?,
            what,
        })
    })
}

/// When an event begins; one that begins at the end, or later, would never be.
fn begins(value: &Value<'_>, ends: Duration) -> Option<Duration> {
    let at = time(value)?;
    if at >= ends {
        value.refuse(format_args!(
            "is not within the duration, which is {}",
            Span(ends)
        ));
        return None;
    }
    Some(at)
}

/// The place of the load that is named, or of the only one.
fn nth(loads: &[Load], named: Option<&Value<'_>>, whole: &Value<'_>) -> Option<usize> {
    let Some(named) = named else {
        if loads.len() != 1 {
            whole.refuse("needs requests: the name of those that come at this rate");
            return None;
        }
        return Some(0);
    };
    let name = named.text()?;
    let found = loads.iter().position(|load| load.name == name);
    if found.is_none() {
        named.refuse(format_args!("no requests have the name {name:?}"));
    }
    found
}

fn expected(value: &Value<'_>, lasts: Duration) -> Option<Expected> {
    value.object(|fields| {
        let (from, to) = (fields.get("from"), fields.get("to"));
        let (success, more) = (
            fields.get("successAtLeast"),
            fields.get("amplificationAtMost"),
        );
        let (p50, p99) = (fields.get("p50AtMostMillis"), fields.get("p99AtMostMillis"));
        let (least, most) = (
            fields.get("ejectionsAtLeast"),
            fields.get("ejectionsAtMost"),
        );
        let shares = fields.get("sharesAtMost");
        let all = [&success, &more, &p50, &p99, &least, &most, &shares];
        if all.iter().all(|value| value.is_none()) {
            fields.whole().refuse("expects nothing");
            return None;
        }
        let windowed = from.is_some() || to.is_some();
        let (from, to) = (or(from, Duration::ZERO, time)?, or(to, lasts, time)?);
        if from >= to || to > lasts {
            let what = "is from a moment to a later one, within the duration";
            fields.whole().refuse(what);
            return None;
        }
        let millis = |value: &Value<'_>| number(value, 3_600_000.0);
        let shares = or(shares, Vec::new(), |value| {
            let entries = value.entries()?;
            let share = |(name, value): (&str, Value<'_>)| {
                Some((Selector::parse(name), number(&value, 100.0)?))
            };
            entries.into_iter().take(NAMED).map(share).collect()
        });
        Some(Expected {
            window: windowed.then_some((from, to)),
            success: maybe(success, |value| number(value, 100.0))?,
            amplification: maybe(more, |value| number(value, 1_000.0))?,
            p50_millis: maybe(p50, millis)?,
            p99_millis: maybe(p99, millis)?,
            ejections: (
                maybe(least, |value| value.integer_in(0, i64::MAX))?,
                maybe(most, |value| value.integer_in(0, i64::MAX))?,
            ),
            shares: shares?,
        })
    })
}
