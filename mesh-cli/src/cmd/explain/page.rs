//! An explanation as a person reads it.

use std::collections::BTreeSet;

use inmesh_core::explain::{Answer, Copied, Explanation, Head, Judgement, Limit, Outcome, Verdict};
use inmesh_discovery::testing::World;
use serde_json::Value;

use crate::term::{self, Colour};

/// The whole walk, the verdict first.
pub(super) fn of(seen: &Explanation, world: Option<&World>) -> String {
    let at = |object: &str| place(object, world);
    let mut out = vec![verdict(&seen.verdict, &at), String::new(), asked(seen)];
    if let Some(egress) = &seen.egress {
        out.extend(judgement("egress", egress, &at));
    }
    out.extend(route(seen, &at));
    if !seen.settings.is_empty() {
        out.push(String::new());
        let rows = seen.settings.iter().map(|setting| {
            let from = setting.object.as_deref().map(&at);
            vec![
                setting.name.clone(),
                short(&setting.value),
                from.unwrap_or_else(|| "built in".into()),
            ]
        });
        out.push(term::table(&["SETTING", "VALUE", "FROM"], rows));
    }
    out.extend(limits(seen));
    if !seen.endpoints.is_empty() {
        out.extend([String::new(), endpoints(seen)]);
    }
    for (host, address) in world.iter().flat_map(|world| world.stand_ins()) {
        let stands = address.to_string();
        if seen
            .endpoints
            .iter()
            .any(|e| e.address.starts_with(&stands))
        {
            out.push(format!(
                "{address} stands for {host}, which is not resolved here"
            ));
        }
    }
    out.extend(edits(seen));
    for inbound in &seen.inbound {
        out.push(String::new());
        out.extend(judgement("inbound", inbound, &at));
    }
    for copy in &seen.copies {
        out.push(String::new());
        out.extend(copied(copy, &at));
    }
    out.join("\n")
}

/// The objects that an explanation names.
pub(super) fn objects(seen: &Explanation) -> BTreeSet<&str> {
    let of_copies = seen.copies.iter().flat_map(|copy| &copy.inbound);
    let judgements = seen.egress.iter().chain(&seen.inbound).chain(of_copies);
    let policies = judgements.flat_map(|judgement| {
        let seen = judgement.policies.iter().map(|policy| &*policy.object);
        let more = judgement.broken.iter().chain(&judgement.unsure);
        seen.chain(more.map(|object| &**object))
    });
    let rules = seen.rules.iter().map(|rule| &*rule.object);
    let settings = seen.settings.iter().filter_map(|s| s.object.as_deref());
    policies.chain(rules).chain(settings).collect()
}

fn place(object: &str, world: Option<&World>) -> String {
    match world.and_then(|world| world.place(object)) {
        Some(at) => format!("{object} ({at})"),
        None => object.into(),
    }
}

fn verdict(verdict: &Verdict, at: &impl Fn(&str) -> String) -> String {
    let status = verdict.status.map(|status| match verdict.grpc_status {
        Some(code) => format!(" with {status}, grpc-status {code}"),
        None => format!(" with {status}"),
    });
    let status = status.unwrap_or_default();
    match verdict.outcome {
        Outcome::Sent => {
            let to = verdict.endpoint.as_deref().unwrap_or_default();
            format!("{} to {to}", term::paint(Colour::Green, "SENT"))
        }
        Outcome::Answered => {
            let to = verdict.location.as_ref().map(|to| format!(", to {to}"));
            let to = to.unwrap_or_default();
            let answered = term::paint(Colour::Green, "ANSWERED");
            let what = match verdict.answer {
                Some(Answer::Preflight) => ", a preflight",
                _ => "",
            };
            format!("{answered} by the route{status}{to}{what}")
        }
        _ => {
            let detail = verdict.detail.as_deref().unwrap_or_default();
            let policy = verdict.policy.as_deref().map(|p| format!(": {}", at(p)));
            let refused = term::paint(Colour::Red, "REFUSED");
            format!("{refused}{status}: {detail}{}", policy.unwrap_or_default())
        }
    }
}

fn asked(seen: &Explanation) -> String {
    let from = seen.from.as_deref().unwrap_or("without an identity");
    let request = seen
        .request
        .as_ref()
        .map_or_else(|| "a request that is not valid".into(), line);
    let (caller, draw) = (&seen.caller, seen.draw);
    format!("asked     {request}\ncaller    {caller}, {from}\ndraw      {draw}")
}

fn line(head: &Head) -> String {
    let tunnel = head.method == "CONNECT" && head.path.is_empty();
    if head.method.is_empty() || tunnel {
        let sni = match head.sni.as_deref() {
            None => String::new(),
            Some("") => " (TLS that names no server)".into(),
            Some(server) => format!(" (TLS to {server})"),
        };
        let how = if tunnel { "CONNECT " } else { "tcp://" };
        return format!("{how}{}{sni}", head.authority);
    }
    let query = head.query.as_ref().map(|query| format!("?{query}"));
    let query = query.unwrap_or_default();
    format!(
        "{} http://{}{}{query}",
        head.method, head.authority, head.path
    )
}

fn judgement(side: &str, seen: &Judgement, at: &impl Fn(&str) -> String) -> Vec<String> {
    let verdict = match (seen.permitted, seen.decisive || side == "egress") {
        (true, _) => "permitted",
        (false, true) => "DENIED",
        (false, false) => "would be denied",
    };
    let mut out = vec![format!(
        "{side:<9} {}: {verdict}: {}",
        seen.workload, seen.why
    )];
    let mut add = |text: String| out.push(format!("          {text}"));
    if side == "inbound" && !seen.local {
        let labels = seen.labels.iter().map(|(k, v)| format!("{k}={v}"));
        let labels: Vec<_> = labels.collect();
        let labels = match &labels[..] {
            [] => "no label".into(),
            labels => labels.join(", "),
        };
        add(format!(
            "not served here: taken to have {labels}, and the default action {}",
            seen.default_action
        ));
    }
    for object in &seen.broken {
        add(format!("refused, so that all is denied: {}", at(object)));
    }
    for limit in seen.limit.iter().chain(&seen.concurrency) {
        let rule = limit.rule.map(|rule| format!("rule {rule} of "));
        let object = limit
            .object
            .as_deref()
            .map_or_else(|| "the process".into(), at);
        let rates = limit.rates.join("; ");
        add(format!(
            "takes at most {rates} ({}{object})",
            rule.unwrap_or_default()
        ));
    }
    for policy in &seen.policies {
        let name = format!("{} {}", policy.action, at(&policy.object));
        match policy.rule {
            Some(rule) => add(format!("matched: {name}: rule {rule}")),
            None => add(format!("lost:    {name}: {}", policy.lost.join("; "))),
        }
    }
    for object in &seen.unsure {
        add(format!(
            "left out: {} selects by labels that are not known; give them with --label",
            at(object)
        ));
    }
    out
}

fn route(seen: &Explanation, at: &impl Fn(&str) -> String) -> Vec<String> {
    let service = seen.service.as_deref();
    let mut out = Vec::new();
    match (&seen.route, service) {
        (Some(route), _) => {
            let name = at(&route.object);
            out.push(format!("route     rule {} of {name}", route.rule));
        }
        (None, Some(service)) if seen.rules.is_empty() && seen.backend.is_some() => {
            out.push(format!("route     none is attached: to {service} itself"));
        }
        _ => {}
    }
    for rule in seen.rules.iter().filter(|rule| !rule.matched) {
        let missed = rule.missed.as_deref().unwrap_or_default();
        let (name, rule) = (at(&rule.object), rule.rule);
        out.push(format!("          lost: rule {rule} of {name}: {missed}"));
    }
    if seen.split.len() > 1 {
        let total: u64 = seen.split.iter().map(|share| u64::from(share.weight)).sum();
        let rows = seen.split.iter().map(|share| {
            let percent = u64::from(share.weight) * 100 / total.max(1);
            vec![
                at_port(&share.service, share.port),
                share.weight.to_string(),
                format!("{percent}%"),
                if share.drawn { "<- drawn" } else { "" }.into(),
            ]
        });
        out.push(String::new());
        out.push(term::table(&["BACKEND", "WEIGHT", "SHARE", ""], rows));
    }
    if let Some(by) = &seen.split_by {
        let policy = by.object.as_deref().map(|of| format!(" ({})", at(of)));
        let key = &by.key;
        let how = match (by.found, by.handed) {
            (true, _) => format!("{key} of the request leads to it"),
            (false, true) => format!("{key} is handed out, and leads to it from now on"),
            (false, false) => format!("drawn at random: the request has no {key}"),
        };
        out.push(format!("split     {how}{}", policy.unwrap_or_default()));
    }
    if let Some(session) = &seen.session {
        let policy = session.object.as_deref().map(|of| format!(" ({})", at(of)));
        let name = &session.name;
        let how = match (session.found, session.stays) {
            (true, true) => format!("{name} of the request leads to its endpoint"),
            (true, false) => format!("{name} leads to an endpoint that cannot be chosen"),
            (false, _) => format!("{name} is handed out"),
        };
        out.push(format!("session   {how}{}", policy.unwrap_or_default()));
    }
    if let Some(to) = &seen.backend {
        let key = if to.by_key { ", by its key" } else { "" };
        let (at, protocol) = (at_port(&to.service, to.port), &to.protocol);
        out.push(format!("backend   {at} ({protocol}){key}"));
    }
    out
}

fn endpoints(seen: &Explanation) -> String {
    let rows = seen.endpoints.iter().map(|e| {
        let mut state = Vec::new();
        for (is, name) in [
            (e.ready && !e.terminating, "ready"),
            (!e.ready, "not ready"),
            (e.terminating && e.serving, "serving"),
            (e.terminating, "terminating"),
            (e.ejected, "ejected"),
            (!e.eligible, "not chosen from"),
        ] {
            if is {
                state.push(name);
            }
        }
        let near = e.near.as_ref().zip(e.permille);
        let near = near.map(|(near, of)| format!("{near} takes {}.{} %", of / 10, of % 10));
        state.extend(near.as_deref());
        let stale = e.stale.as_ref();
        let stale = stale.map(|source| format!("in doubt: {source} is stale"));
        state.extend(stale.as_deref());
        let version = match &*e.version {
            "" => e.workload.clone(),
            version => format!("{} {version}", e.workload),
        };
        vec![
            e.address.clone(),
            e.transport.clone(),
            version,
            e.zone.clone(),
            format!("{}/{}", e.weight, e.priority),
            e.in_flight.to_string(),
            state.join(", "),
            if e.taken { "<- taken" } else { "" }.into(),
        ]
    });
    let header = [
        "ENDPOINT",
        "TRANSPORT",
        "WORKLOAD",
        "ZONE",
        "WEIGHT/TIER",
        "LOAD",
        "STATE",
        "",
    ];
    term::table(&header, rows)
}

/// When it must have an answer, and how it is sent again.
fn limits(seen: &Explanation) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(fault) = &seen.fault {
        let wait = fault.delay_millis.map(|ms| format!("it waits {ms} ms"));
        let abort = fault.aborted.then(|| "it is aborted".to_owned());
        let slow = fault.bits_per_second.filter(|_| !fault.aborted);
        let slow = slow.map(|bits| format!("its answer comes with {} kbit/s", bits / 1_000));
        let made: Vec<_> = wait.into_iter().chain(abort).chain(slow).collect();
        let made = match made.is_empty() {
            true => "none is drawn".to_owned(),
            false => made.join(", then "),
        };
        let by = fault.object.as_ref().map(|by| format!(" ({by})"));
        out.push(format!("fault     {made}{}", by.unwrap_or_default()));
    }
    if let Some(deadline) = &seen.deadline {
        let limit = |limit: &Limit| format!("{} ms ({})", limit.millis, limit.by);
        let whole = deadline.whole.as_ref().filter(|w| **w != deadline.attempt);
        let whole = whole.map(|whole| format!(", all together {}", limit(whole)));
        let (one, whole) = (limit(&deadline.attempt), whole.unwrap_or_default());
        out.push(format!("time      the first attempt has {one}{whole}"));
    }
    if let Some(hedges) = &seen.hedges {
        let by = hedges.object.as_ref().map(|by| format!(" ({by})"));
        let by = by.unwrap_or_default();
        out.push(match &hedges.missed {
            Some(why) => format!("hedges    none: {why}{by}"),
            None => {
                let (most, after) = (hedges.attempts, hedges.delay_millis);
                format!("hedges    up to {most} endpoints, the next after {after} ms{by}")
            }
        });
        if hedges.missed.is_none() && !hedges.budget {
            out.push("          the budget has none at the moment".into());
        }
    }
    if let Some(repeats) = &seen.repeats {
        let waits: Vec<_> = repeats.wait_millis.iter().take(5).collect();
        let waits: Vec<_> = waits.iter().map(|wait| wait.to_string()).collect();
        let more = if repeats.wait_millis.len() > waits.len() {
            ", ..."
        } else {
            ""
        };
        let mut notes = vec![match repeats.idempotent {
            true => "a broken connection or a late answer is enough, as the method is idempotent",
            false => "not after a broken connection alone, as the method is not idempotent",
        }];
        if !repeats.kept {
            notes.push("it is not kept, so only what reached no server is sent again");
        }
        if !repeats.budget {
            notes.push("the budget has none at the moment");
        }
        let (most, waits) = (repeats.attempts, waits.join(", "));
        out.push(format!(
            "repeats   {most} at most, after up to {waits}{more} ms"
        ));
        out.extend(notes.iter().map(|note| format!("          {note}")));
    }
    if !out.is_empty() {
        out.insert(0, String::new());
    }
    out
}

/// A backend and its port, which one that is no Service need not have.
fn at_port(service: &str, port: u16) -> String {
    match port {
        0 => service.to_owned(),
        port => format!("{service}:{port}"),
    }
}

fn copied(copy: &Copied, at: &impl Fn(&str) -> String) -> Vec<String> {
    let to = at_port(&copy.service, copy.port);
    let share = format!("{} of {}", copy.numerator, copy.denominator);
    let becomes = match (&copy.verdict, &copy.missed) {
        (Some(seen), _) => verdict(seen, at),
        (None, missed) => format!("none: {}", missed.as_deref().unwrap_or_default()),
    };
    let mut out = vec![format!("copy      {to} ({share}): {becomes}")];
    if let Some(sent) = &copy.sent {
        out.push(format!("          sent as {}", line(sent)));
    }
    for inbound in &copy.inbound {
        out.extend(judgement("inbound", inbound, at));
    }
    out
}

/// What the route changes in the request and the answer.
fn edits(seen: &Explanation) -> Vec<String> {
    let mut out = Vec::new();
    for edit in &seen.edits {
        let of = if edit.of_backend { "backend" } else { "rule" };
        out.push(format!("filter    of the {of}: {}", short(&edit.filter)));
    }
    if let Some(from) = &seen.origin {
        let may = if from.allowed { "may" } else { "may not" };
        out.push(format!("origin    {} {may} read the answer", from.origin));
    }
    if let (Some(before), Some(after)) = (&seen.request, &seen.sent) {
        if line(before) != line(after) {
            out.push(format!("sent as   {}", line(after)));
        }
        let (old, new) = (&before.headers.0, &after.headers.0);
        for (name, value) in after.headers.shown() {
            if !before
                .headers
                .shown()
                .any(|field| field == (name, value.clone()))
            {
                out.push(format!("          + {name}: {value}"));
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            if name != http::header::HOST {
                out.push(format!("          - {name}"));
            }
        }
    }
    for (name, value) in seen.response.shown() {
        out.push(format!("answer    + {name}: {value}"));
    }
    if !out.is_empty() {
        out.insert(0, String::new());
    }
    out
}

/// A value in a line.
fn short(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name} {}", short(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(short).collect::<Vec<_>>().join("/"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
