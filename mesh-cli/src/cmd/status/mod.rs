//! `mesh status`: what a running agent knows and how it is.

mod notes;
mod subscribers;
mod trust;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::agent::duration;
use crate::fetch::AdminAddress;
use crate::{fetch, term};

/// How often a status is asked for while it is waited for, and while it is watched.
const ASK: Duration = Duration::from_millis(200);
const WATCH: Duration = Duration::from_secs(2);

/// Where the agent is asked, and the variable that says another place.
const ADMIN: &str = "127.0.0.1:15000";
const ADMIN_VARIABLE: &str = "MESH_ADMIN";

/// Where the agent is asked.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The agent's admin address, as HOST:PORT or http://HOST:PORT.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = ADMIN,
        env = ADMIN_VARIABLE
    )]
    pub(super) admin: AdminAddress,
}

impl At {
    /// Where an agent is asked if nothing else is said.
    pub(super) fn usual() -> anyhow::Result<AdminAddress> {
        let said = std::env::var(ADMIN_VARIABLE);
        let address = said.as_deref().unwrap_or(ADMIN).parse();
        address.map_err(|e: String| anyhow::anyhow!("{ADMIN_VARIABLE}: {e}"))
    }
}

/// Exits 0 if the agent is ready and refuses nothing, 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh status
  mesh status --admin 127.0.0.1:15010 --json
  mesh status --wait 30s      # until it is ready, for 30 s at most
  mesh status --watch         # again every 2 s, until Ctrl-C")]
pub(crate) struct Status {
    #[command(flatten)]
    at: At,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Wait until the agent is ready, for this long at most, e.g. 30s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// Print nothing, and exit 0 if the agent is ready, 1 if not: for a probe.
    #[arg(long, conflicts_with_all = ["json", "wait", "watch"])]
    ready: bool,
    /// Print it again every 2 s, until it is interrupted.
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        super::runtime(None)?.block_on(async {
            if self.ready {
                let ready = self.ask().await?["ready"] == true;
                return Ok(match ready {
                    true => ExitCode::SUCCESS,
                    false => ExitCode::FAILURE,
                });
            }
            if self.watch {
                let ask = async || self.ask().await;
                return Err(watch(ask, |answer| self.show(answer)).await);
            }
            let status = match self.wait {
                None => self.ask().await?,
                Some(limit) => wait(limit, async || self.ask().await).await?,
            };
            self.print(&status)?;
            let refused = each(&status["objects"]).any(|o| o["serving"] != "current");
            let good = status["ready"] == true && !refused;
            Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        })
    }

    async fn ask(&self) -> anyhow::Result<Value> {
        let text = fetch::admin(http::Method::GET, &self.at.admin, "/status").await?;
        Ok(serde_json::from_str(&text)?)
    }

    fn print(&self, status: &Value) -> anyhow::Result<()> {
        if self.json {
            term::print(&serde_json::to_string_pretty(status)?);
        } else {
            term::print(&page(status));
        }
        Ok(())
    }

    /// Prints an answer, on a terminal in place of the one before.
    fn show(&self, asked: anyhow::Result<Value>) -> anyhow::Result<()> {
        term::clear();
        match asked {
            Ok(status) => self.print(&status),
            Err(error) => {
                term::error(&error);
                Ok(())
            }
        }
    }
}

/// Asks until the agent is ready; at the limit the last answer counts, or the last error.
async fn wait(
    limit: Duration,
    ask: impl AsyncFn() -> anyhow::Result<Value>,
) -> anyhow::Result<Value> {
    let end = Instant::now() + limit;
    loop {
        let asked = ask().await;
        let ready = matches!(&asked, Ok(status) if status["ready"] == true);
        if ready || Instant::now() >= end {
            return asked;
        }
        sleep(ASK).await;
    }
}

/// Shows one answer after the other, errors too: an agent that restarts comes back. It ends only where
/// one cannot be shown.
async fn watch(
    ask: impl AsyncFn() -> anyhow::Result<Value>,
    mut show: impl FnMut(anyhow::Result<Value>) -> anyhow::Result<()>,
) -> anyhow::Error {
    loop {
        if let Err(error) = show(ask().await) {
            return error;
        }
        sleep(WATCH).await;
    }
}

fn page(status: &Value) -> String {
    let ready = if status["ready"] == true {
        "ready"
    } else {
        "NOT READY"
    };
    let mut out = vec![format!(
        "{} is {ready}; version {}, configuration generation {}, {} refused versions",
        text(&status["workload"]),
        text(&status["version"]),
        status["generation"],
        status["refusals"],
    )];
    out.extend(each(&status["not_ready"]).map(|why| format!("  {}", text(why))));
    out.extend(notes::sources(status).map(|source| format!("  {source}")));
    let identity = each(&status["identity"]).map(|c| {
        vec![
            text(&c["kind"]),
            text(&c["id"]),
            left(c["not_after"].as_u64()),
        ]
    });
    out.push(String::new());
    out.push(term::table(
        &["CERTIFICATE", "IDENTITY", "ENDS IN"],
        identity,
    ));
    let renewal = &status["renewal"];
    if let Some(error) = renewal["last_error"].as_str() {
        out.push(format!(
            "renewal has failed {} times in a row: {error}",
            renewal["failing"]
        ));
    }
    let listeners = each(&status["listeners"]).map(|one| {
        vec![
            text(&one["address"]),
            text(&one["direction"]),
            text(&one["leads"]),
            one["connections"].to_string(),
        ]
    });
    out.push(String::new());
    out.push(term::table(
        &["LISTENER", "DIRECTION", "LEADS", "CONNECTIONS"],
        listeners,
    ));
    out.extend(policy(&status["policy"]));
    out.extend(subscribers::lines(&status["control_plane"]));
    out.extend(trust::federation(&status["federation"]));
    out.extend(trust::workload_api(&status["workload_api"]));
    out.push(String::new());
    out.push(services(status));
    out.extend(notes::endpoint_errors(status));
    out.extend(notes::server_first(status));
    out.extend(notes::overflows(status));
    out.extend(routes(&status["routes"]));
    let objects = each(&status["objects"])
        .map(|o| vec![text(&o["object"]), text(&o["serving"]), text(&o["source"])]);
    out.push(String::new());
    out.push(term::table(&["OBJECT", "SERVING", "SOURCE"], objects));
    for object in each(&status["objects"]) {
        for problem in each(&object["problems"]) {
            out.push(format!(
                "{}: {}",
                text(&object["object"]),
                problem_line(problem)
            ));
        }
    }
    out.join("\n")
}

/// What decides on requests to the workload.
fn policy(policy: &Value) -> Vec<String> {
    let default = text(&policy["default_action"]);
    let mut out = vec![
        String::new(),
        format!("requests to it: {default} where no ALLOW policy selects it"),
    ];
    let selected: Vec<_> = each(&policy["selected_by"])
        .map(|one| {
            let rules = one["rules"].to_string();
            vec![text(&one["object"]), text(&one["action"]), rules]
        })
        .collect();
    if !selected.is_empty() {
        let head = ["SELECTED BY", "ACTION", "RULES"];
        out.push(term::table(&head, selected));
    }
    let refused = each(&policy["refused"]).map(text);
    out.extend(refused.map(|key| format!("{key} is refused, and denies everything meanwhile")));
    out
}

/// The rules of routes with the share of each backend; nothing where there are none.
fn routes(routes: &Value) -> Vec<String> {
    let rows = each(routes).map(|rule| {
        let total: u64 = each(&rule["backends"])
            .filter_map(|backend| backend["weight"].as_u64())
            .sum();
        let backends = each(&rule["backends"]).map(|backend| {
            let weight = backend["weight"].as_u64().unwrap_or_default();
            let share = (weight * 100).checked_div(total).unwrap_or_default();
            let (service, port) = (text(&backend["service"]), &backend["port"]);
            format!("{service}:{port} {weight} ({share}%)")
        });
        let to = match rule["answer"].as_u64() {
            Some(status) => format!("answers {status}"),
            None => backends.collect::<Vec<_>>().join(", "),
        };
        let rule_of = format!("{} rule {}", text(&rule["route"]), rule["rule"]);
        vec![text(&rule["service"]), rule_of, to]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let head = ["ROUTES OF", "RULE", "TO (WEIGHT)"];
    vec![String::new(), term::table(&head, rows)]
}

/// The Services with their endpoints.
fn services(status: &Value) -> String {
    let services = each(&status["services"]).flat_map(|s| {
        let name = format!("{}:{}", text(&s["service"]), s["port"]);
        let row = {
            let (name, protocol) = (name.clone(), text(&s["protocol"]));
            move |address: String, state: String, in_flight: String| {
                vec![name.clone(), protocol.clone(), address, state, in_flight]
            }
        };
        let mut rows: Vec<_> = each(&s["endpoints"])
            .map(|e| {
                let state = match (&e["ejected"], &e["ready"]) {
                    (Value::Bool(true), _) => "ejected",
                    (_, Value::Bool(true)) => "ready",
                    _ => "not ready",
                };
                let state = format!("{state} ({})", text(&e["transport"]));
                row(text(&e["address"]), state, e["in_flight"].to_string())
            })
            .collect();
        if rows.is_empty() {
            rows.push(row("-".into(), "no endpoints".into(), String::new()));
        }
        rows
    });
    term::table(
        &["SERVICE", "PROTOCOL", "ENDPOINT", "STATE", "IN FLIGHT"],
        services,
    )
}

/// A problem as `mesh validate` prints it.
pub(super) fn problem_line(problem: &Value) -> String {
    let mut line = format!("{}: ", text(&problem["severity"]));
    let location = &problem["location"];
    if !location.is_null() {
        line += &format!("{}:{}: ", text(&location["file"]), location["line"]);
    }
    let field = text(&problem["field"]);
    if !field.is_empty() {
        line += &format!("{field}: ");
    }
    line + &text(&problem["message"])
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How long a certificate has left, as a person would say it.
fn left(not_after: Option<u64>) -> String {
    left_of(not_after.unwrap_or_default().checked_sub(now()))
}

/// Seconds since 1970.
fn now() -> u64 {
    use inmesh_pki::clock::Clock;
    let now = inmesh_pki::clock::SystemClock.now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Seconds as a person would say them; no seconds left means expired.
pub(super) fn left_of(seconds: Option<u64>) -> String {
    match seconds {
        None | Some(0) => "expired".to_owned(),
        Some(seconds) => span(seconds),
    }
}

/// Seconds as a person would say them.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_routes_and_failures_are_shown() {
        let status = serde_json::json!({
            "policy": {
                "default_action": "deny",
                "selected_by": [{
                    "object": "AuthorizationPolicy/shop/a", "action": "ALLOW", "rules": 2,
                }],
                "refused": ["AuthorizationPolicy/shop/b"],
            },
            "sources": {
                "dns": {"state": "synced", "age": 0, "stale": false},
                "one": {"state": "lost", "reason": "gone", "age": 90, "stale": false},
                "two": {"state": "kept", "age": 400, "stale": true},
            },
            "services": [{
                "service": "app.shop", "port": 80, "protocol": "http", "server_first": false,
                "connections": [
                    {"workload": "shop/web", "open": 9, "pending": 3, "overflows": 2},
                    {"workload": "shop/own", "open": 1, "pending": 0, "overflows": 0},
                ],
                "endpoints": [{
                    "address": "10.0.0.1:80", "transport": "mesh", "ready": true,
                    "ejected": false, "in_flight": 0,
                    "last_error": {"error": "connect-failed: refused", "age": 90},
                }],
            }],
            "routes": [
                {
                    "service": "app.shop", "route": "HTTPRoute/shop/r", "rule": 0, "answer": null,
                    "backends": [
                        {"service": "app.shop", "port": 80, "weight": 3},
                        {"service": "next.shop", "port": 80, "weight": 1},
                    ],
                },
                {
                    "service": "app.shop", "route": "HTTPRoute/shop/r", "rule": 1, "answer": 503,
                    "backends": [],
                },
            ],
        });
        let page = page(&status);
        for part in [
            "requests to it: deny where no ALLOW policy selects it",
            "AuthorizationPolicy/shop/a",
            "AuthorizationPolicy/shop/b is refused, and denies everything meanwhile",
            "app.shop:80 10.0.0.1:80 failed 90s ago: connect-failed: refused",
            "app.shop:80 3 (75%), next.shop:80 1 (25%)",
            "answers 503",
            "source one is lost (gone), 90s out of sync",
            "source two is STALE: kept, ",
            "app.shop:80 has 9 connections open from shop/web; 3 requests wait for one, 2 were refused",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(
            !page.contains("shop/own") && !page.contains("dns"),
            "{page}"
        );
    }

    /// Answers in their order, the last one again and again.
    fn answers(
        all: &[Result<Value, &'static str>],
    ) -> impl AsyncFn() -> anyhow::Result<Value> + use<> {
        let (all, next) = (all.to_vec(), std::cell::Cell::new(0));
        async move || {
            let answer = all[next.get().min(all.len() - 1)].clone();
            next.set(next.get() + 1);
            answer.map_err(|error| anyhow::anyhow!("{error}"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_shows_every_answer_and_outlasts_an_agent() {
        let status = |generation: u32| Ok(serde_json::json!({ "generation": generation }));
        let ask = answers(&[status(1), Err("connection refused"), status(2)]);
        let start = Instant::now();
        let mut shown = Vec::new();
        let watching = watch(ask, |answer| {
            let said = match answer {
                Ok(status) => status["generation"].to_string(),
                Err(error) => error.to_string(),
            };
            shown.push((start.elapsed().as_secs(), said));
            Ok(())
        });
        let limit = Duration::from_secs(5);
        let ended = tokio::time::timeout(limit, watching).await;
        assert!(ended.is_err(), "{ended:?}");
        let wanted = [(0, "1"), (2, "connection refused"), (4, "2")];
        let shown: Vec<_> = shown.iter().map(|(at, said)| (*at, &**said)).collect();
        assert_eq!(shown, wanted);
        let broken = watch(answers(&[status(1)]), |_| {
            anyhow::bail!("the output is gone")
        })
        .await;
        assert_eq!(broken.to_string(), "the output is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_the_agent_is_ready_or_at_its_limit() {
        let status = |ready: bool| Ok(serde_json::json!({ "ready": ready }));
        let limit = Duration::from_secs(30);
        let start = Instant::now();
        let got = wait(
            limit,
            answers(&[Err("refused"), status(false), status(true)]),
        )
        .await;
        assert_eq!(got.expect("an answer")["ready"], true);
        assert_eq!(start.elapsed(), ASK * 2);
        let got = wait(limit, answers(&[status(false)])).await;
        assert_eq!(got.expect("the last answer")["ready"], false);
        assert!(start.elapsed() >= limit && start.elapsed() < limit + Duration::from_secs(2));
        let got = wait(Duration::ZERO, answers(&[Err("refused")])).await;
        assert_eq!(got.expect_err("the last error").to_string(), "refused");
    }

    #[test]
    fn a_port_that_speaks_first_is_named_with_the_line_that_declares_it() {
        let port = |port: u16, first: bool| {
            serde_json::json!({
                "service": "db.shop", "port": port, "protocol": "detect",
                "server_first": first, "endpoints": [],
            })
        };
        let listener = |port: u16, first: bool| {
            serde_json::json!({
                "address": format!("127.0.0.1:{port}"), "direction": "inbound",
                "workload": "shop/db", "leads": "to 127.0.0.1:25", "server_first": first,
                "connections": 0,
            })
        };
        let status = serde_json::json!({
            "services": [port(3306, true), port(80, false)],
            "listeners": [listener(8025, true), listener(8080, false)],
        });
        let lines: Vec<_> = notes::server_first(&status).collect();
        assert_eq!(
            lines,
            [
                "db.shop:3306 speaks first; write `appProtocol: tcp` at the Service's port",
                "the application behind 127.0.0.1:8025 speaks first; write `appProtocol: tcp` at the \
                 listener's `inbound`",
            ]
        );
        let page = page(&status);
        assert!(lines.iter().all(|line| page.contains(line)), "{page}");
    }
}
