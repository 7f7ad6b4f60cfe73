//! `mesh apply`: a document on a share of the members first, `mesh rollback`: back again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::model::Namespace;
use inmesh_core::snapshot::{Op, Severity};
use inmesh_discovery::kube::{Cluster, Seen, Subject, SubjectError};
use inmesh_discovery::manifest::{Defaults, Unsaid, parse, strict};
use inmesh_discovery::stage::{Stage, State};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::term::{self, Colour};
use crate::{agent, cmd};

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_secs(1);
/// How long a control plane has to choose members; a replica that takes over needs 17 s of these.
const TAKEN: Duration = Duration::from_secs(60);
/// How much longer than it is compared a stage may last, before it is said that none drives it to its end.
const LATE: Duration = Duration::from_secs(120);

/// How often it is staged anew where the object is changed at the same moment.
const ATTEMPTS: u32 = 5;

/// Where a cluster is.
#[derive(Debug, Args)]
struct At {
    /// The kubeconfig file [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of that file, instead of its current one.
    #[arg(long, requires = "kubeconfig")]
    context: Option<String>,
}

/// Gives a document to a share of the members first, compares how their requests fare with those of the rest, and
/// has the control plane give it to all, or take it back.
///
/// The object stays as it is until then; an annotation has what is staged. The control plane goes through with it
/// also where this command is ended: `mesh rollback` stops it. Exits 0 if it is promoted, 1 if it is taken back or
/// stopped, 2 if it could not be staged or nothing is known of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh apply --canary 10% -f route.yaml
  mesh apply --canary-namespace staging --for 5m -n shop -f policy.yaml --json")]
pub(crate) struct Apply {
    /// The file with the document: an HTTPRoute, a GRPCRoute, an AuthorizationPolicy or a TrafficPolicy of ours.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The share of the members that have it first, 1% to 90%; up to 100% of those of a namespace.
    #[arg(long, value_name = "PERCENT", value_parser = percent, required_unless_present = "canary_namespace")]
    canary: Option<u8>,
    /// The namespace whose members have it first: all of them, or the share.
    #[arg(long, value_name = "NAMESPACE")]
    canary_namespace: Option<String>,
    /// For how long it is compared, 10s to 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = lasts)]
    lasts: Duration,
    /// The namespace of a document that names none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    at: At,
    /// Print nothing but the stage as it is in the end, as JSON.
    #[arg(long)]
    json: bool,
}

/// Stops what is staged of an object; where nothing is, puts back what it said before its last promotion.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh rollback HTTPRoute/cart -n shop")]
pub(crate) struct Rollback {
    /// The object: `KIND/NAME`.
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Put it back although it was changed since its promotion: that change is lost.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    at: At,
}

/// A document that is to be staged.
struct Document {
    kind: String,
    namespace: Namespace,
    name: String,
    spec: Value,
}

// === impl At ===

impl At {
    async fn cluster(&self) -> anyhow::Result<Cluster> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
        Ok(agent::cluster(file, context).await?)
    }
}

// === impl Apply ===

impl Apply {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match cmd::runtime(None)?.block_on(self.apply()) {
            Ok(State::Promoted) => Ok(ExitCode::SUCCESS),
            Ok(_) => Ok(ExitCode::from(1)),
            Err(error) => {
                term::error(&error);
                Ok(ExitCode::from(2))
            }
        }
    }

    async fn apply(&self) -> anyhow::Result<State> {
        let (share, of) = self.canary()?;
        let document = read(&self.file, &self.namespace)?;
        let cluster = self.at.cluster().await?;
        let Document {
            kind,
            namespace,
            name,
            spec,
        } = document;
        let subject = Subject::of(&cluster, &kind, &namespace, &name).await?;
        let id = format!("{:016x}", rand::random::<u64>());
        let seconds = u32::try_from(self.lasts.as_secs()).context("--for")?;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let seen = subject.look().await?;
            let stage = Stage::new(&id, share, seconds, seen.generation, spec.clone());
            let stage = match &of {
                Some(namespace) => stage.of_namespace(namespace.as_str()),
                None => stage,
            };
            match subject.stage(&seen, &stage).await {
                // Its status was written, say.
                Err(SubjectError::Changed(_)) if attempts.next().is_some() => {}
                staged => break staged?,
            }
        }
        self.say(&format!(
            "{subject}: staged for {share} % of the members{}, for {seconds} s; `mesh rollback {}/{name} -n \
             {namespace}` stops it",
            of.map(|of| format!(" in {of}")).unwrap_or_default(),
            subject.kind()
        ));
        let ended = self.watch(&subject, &id).await?;
        if self.json {
            term::print(&serde_json::to_string_pretty(&ended)?);
        } else {
            term::print(&summary(&subject.to_string(), &ended));
        }
        Ok(ended.state)
    }

    /// The share of the members that have it first, and of which namespace.
    fn canary(&self) -> anyhow::Result<(u8, Option<Namespace>)> {
        let of = self.canary_namespace.as_deref();
        let of = of.map(Namespace::new).transpose();
        let of = of.context("--canary-namespace")?;
        match (self.canary, of) {
            (Some(share @ 91..), None) => {
                bail!(
                    "{share} % leave too few to compare with: 90 % is the most, but of a --canary-namespace"
                )
            }
            (share, of) => Ok((share.unwrap_or(100), of)),
        }
    }

    /// Follows the stage until it has ended.
    async fn watch(&self, subject: &Subject, id: &str) -> anyhow::Result<Stage> {
        let begin = Instant::now();
        let (mut said, mut answered) = (String::new(), begin);
        loop {
            sleep(LOOK).await;
            let seen = match subject.look().await {
                Ok(seen) => seen,
                // An API server may be away for a while.
                Err(why) if answered.elapsed() > TAKEN => return Err(why.into()),
                Err(_) => continue,
            };
            answered = Instant::now();
            let stage = match seen.stage.clone() {
                Some(Ok(stage)) if stage.id == id => stage,
                _ => bail!(
                    "{subject}: its annotation was changed by another; what becomes of it is not known"
                ),
            };
            if !stage.lives() {
                return Ok(stage);
            }
            self.give_up(subject, &seen, &stage, begin).await?;
            let now = progress(&stage);
            if now != said {
                self.say(&now);
                said = now;
            }
        }
    }

    /// Ends where no control plane takes it, or none drives it to its end.
    async fn give_up(
        &self,
        subject: &Subject,
        seen: &Seen,
        stage: &Stage,
        begin: Instant,
    ) -> anyhow::Result<()> {
        if stage.state == State::Staged && begin.elapsed() > TAKEN {
            let why = "no control plane has taken it";
            // It may just have been taken.
            if subject.stop(seen, why).await.is_ok() {
                bail!(
                    "{subject}: {why} within {} s, so it is not staged any more",
                    TAKEN.as_secs()
                );
            }
        }
        if begin.elapsed() > TAKEN + self.lasts + LATE {
            bail!(
                "{subject}: it is still staged, since no control plane says what is to become of it; \
                 `mesh rollback` stops it"
            );
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if !self.json && !text.is_empty() {
            term::print(text);
        }
    }
}

// === impl Rollback ===

impl Rollback {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        cmd::runtime(None)?.block_on(self.roll_back())
    }

    async fn roll_back(self) -> anyhow::Result<ExitCode> {
        let namespace = Namespace::new(&self.namespace).context("--namespace")?;
        let (kind, name) = { self.object.split_once('/') }.context("write KIND/NAME")?;
        let subject = Subject::of(&self.at.cluster().await?, kind, &namespace, name).await?;
        let mut attempts = 1..ATTEMPTS;
        let done = loop {
            let seen = subject.look().await?;
            let (done, says) = if seen.lives() {
                let stopped = subject.stop(&seen, "it was stopped by mesh rollback");
                (
                    stopped.await,
                    "what was staged is taken back; the object is as it was",
                )
            } else {
                let back = subject.roll_back(&seen, self.force);
                (back.await, "it says again what it did before its promotion")
            };
            match done {
                // It may have been promoted at the same moment: then that is taken back.
                Err(SubjectError::Changed(_)) if attempts.next().is_some() => {}
                done => break done.map(|()| says),
            }
        };
        term::print(&format!("{subject}: {}", done?));
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads the one document of a file.
fn read(file: &Path, namespace: &str) -> anyhow::Result<Document> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {shown}"))?;
    let default = Namespace::new(namespace).context("--namespace")?;
    let documents = strict::documents(&shown, &text)?;
    let [document] = &*documents else {
        bail!(
            "{shown} holds {} documents: one is staged at a time",
            documents.len()
        );
    };
    let defaults = Defaults::new(default.clone()).unsaid(Unsaid::Plain);
    for entry in parse(&shown, &text, &defaults)?.entries {
        let (problems, refused) = match &entry.op {
            Op::Put(_, problems) => (problems, false),
            Op::Refuse(_, _, problems) => (problems, true),
            _ => continue,
        };
        for problem in problems.iter().filter(|p| p.severity != Severity::Note) {
            term::warn(&problem.to_string());
        }
        if refused {
            bail!("{} is refused", entry.key);
        }
    }
    let value = document.to_value();
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let namespace = match text("/metadata/namespace") {
        Some(name) => Namespace::new(&name).context("metadata.namespace")?,
        None => default,
    };
    Ok(Document {
        kind: text("/kind").context("it has no kind")?,
        name: text("/metadata/name").context("it has no name")?,
        spec: value.get("spec").cloned().context("it has no spec")?,
        namespace,
    })
}

/// How far it is.
fn progress(stage: &Stage) -> String {
    let Some(running) = stage.running else {
        return String::new();
    };
    let (canary, rest) = (stage.canary, stage.rest);
    let share = share(running.chosen, running.members);
    if canary.requests == 0 && rest.requests == 0 {
        return format!(
            "{} of {} members have it: {share} of the requests can be hurt, where each makes as many",
            running.chosen, running.members
        );
    }
    format!(
        "{} requests with it, {} failed; {} without, {} failed",
        canary.requests, canary.failed, rest.requests, rest.failed
    )
}

/// What became of it.
fn summary(object: &str, stage: &Stage) -> String {
    let colour = match stage.state {
        State::Promoted => Colour::Green,
        _ => Colour::Red,
    };
    let state = term::paint(colour, &stage.state.to_string());
    let mut text = format!("{object}: {state}: {}", stage.why);
    if let Some(running) = stage.running {
        let (canary, rest) = (stage.canary, stage.rest);
        let all = canary.requests.saturating_add(rest.requests);
        text += &format!(
            "\n{} of {} members had it ({}), and made {} of {all} requests ({}); {} of these failed ({} of all), and \
             {} of the rest",
            running.chosen,
            running.members,
            share(running.chosen, running.members),
            canary.requests,
            share(canary.requests, all),
            canary.failed,
            share(canary.failed, all),
            rest.failed
        );
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a share of a count")]
fn share(part: u64, of: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

/// Reads a share: `10%`, or `10`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    let share = number.ok().filter(|percent| (1..=100).contains(percent));
    share.ok_or_else(|| format!("{text:?} is no share: write 1% to 90%"))
}

/// Reads how long it is compared.
fn lasts(text: &str) -> Result<Duration, String> {
    let lasts = agent::duration(text)?;
    let bounds = Duration::from_secs(10)..=Duration::from_secs(86_400);
    if !bounds.contains(&lasts) || lasts.subsec_nanos() > 0 {
        return Err(format!("{text:?} is not from 10s to 24h, in whole seconds"));
    }
    Ok(lasts)
}

#[cfg(test)]
mod tests {
    use inmesh_discovery::stage::Running;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, expected) in [
            ("10%", Some(10)),
            ("1", Some(1)),
            ("100%", Some(100)),
            ("0%", None),
            ("101%", None),
            ("ten", None),
            ("10%%", None),
            ("-1", None),
            ("2.5%", None),
        ] {
            assert_eq!(percent(text).ok(), expected, "{text}");
        }
        for (text, fits) in [
            ("10s", true),
            ("24h", true),
            ("9s", false),
            ("25h", false),
            ("10500ms", false),
        ] {
            assert_eq!(lasts(text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn one_document_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.yaml");
        let read_text = |text: &str| {
            std::fs::write(&file, text).expect("it is written");
            read(&file, "shop").map_err(|e| format!("{e:#}"))
        };
        let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: cart}, \
                     spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{}]}}";
        let found = read_text(route).expect("it is one");
        assert_eq!(
            (&*found.kind, found.namespace.as_str(), &*found.name),
            ("HTTPRoute", "shop", "cart")
        );
        assert_eq!(found.spec["rules"], json!([{}]));
        for (text, why) in [
            (format!("{route}\n---\n{route}"), "holds 2 documents"),
            (
                route.replace("rules: [{}]", "rules: [{x: 1}]"),
                "is refused",
            ),
            (
                route.replace("name: cart}, spec", "namespace: A}, spec"),
                "is refused",
            ),
            (String::new(), "no document"),
        ] {
            let found = read_text(&text).err().unwrap_or_default();
            assert!(found.contains(why), "{why}: {found}");
        }
    }

    #[test]
    fn what_became_of_it_is_said() {
        let mut stage = Stage::new("a1", 10, 30, 4, json!({}));
        assert_eq!(progress(&stage), "");
        stage.running = Some(Running::new(7, 0, 10, 1));
        assert_eq!(
            progress(&stage),
            "1 of 10 members have it: 10.0 % of the requests can be hurt, where each makes as many"
        );
        (
            stage.canary.requests,
            stage.canary.failed,
            stage.rest.requests,
        ) = (600, 31, 5_400);
        assert_eq!(
            progress(&stage),
            "600 requests with it, 31 failed; 5400 without, 0 failed"
        );
        let ended = stage.ended(
            State::Reverted,
            "5.2 % of 600 requests failed with it, 0.0 % of 5400 without",
        );
        assert_eq!(
            summary("HTTPRoute/shop/cart", &ended),
            "HTTPRoute/shop/cart: reverted: 5.2 % of 600 requests failed with it, 0.0 % of 5400 without\n\
             1 of 10 members had it (10.0 %), and made 600 of 6000 requests (10.0 %); 31 of these failed (0.5 % of \
             all), and 0 of the rest"
        );
    }
}
