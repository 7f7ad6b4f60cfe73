//! One watch of a kind: lists it, follows it, and begins again where it left off.
//!
//! A list comes as a stream where the API server has that, else in pages. Whatever fails is tried again
//! soon, with a draw in each wait, since all watches of a server that restarts begin anew together. What
//! an error means is a pure function, [`judge`].

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request, Status};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::index::Event;
use super::kinds::Watched;
use super::write::get_if_there;

/// Objects of a page.
const PAGE: u32 = 500;
/// The wait after the first failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// The longest wait that a server may ask for.
const ASKED: Duration = Duration::from_secs(30);
/// How often a kind that is absent is looked for.
const LOOK: Duration = Duration::from_secs(10);
/// How long a watch lasts, in seconds: a connection that is dead without a word is noticed soon after.
const WATCH: u32 = 60;
/// The mark of the end of a list that comes as a stream.
const END: &str = "k8s.io/initial-events-end";

/// What a watch says.
#[derive(Debug)]
pub(super) enum Said {
    /// Something of its objects.
    Of(Event),
    /// It follows them.
    Live,
    /// It does not, and why; it tries again.
    Failed(String),
}

/// What an error means for a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The kind is not there.
    Absent,
    /// What was known is too old to go on from: list again.
    Expired,
    /// Try again, not before this time.
    Later(Option<Duration>),
    /// The server does not send lists as streams.
    NoStreams,
}

/// Which objects a watch follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed {
    pub(super) kind: &'static Watched,
    /// Those with labels that a selector permits, or all.
    pub(super) labels: Option<&'static str>,
    /// Those with fields that a selector permits, or all.
    pub(super) fields: Option<&'static str>,
}

/// Watches objects until nothing listens; `place` names the watch to its listener.
pub(super) async fn watch(
    client: Client,
    place: usize,
    followed: Followed,
    said: mpsc::Sender<(usize, Said)>,
) {
    let mut one = Watch {
        client,
        said,
        place,
        followed,
        streams: true,
        failures: 0,
    };
    // Gone once nothing listens.
    let _gone = one.run(followed.kind).await;
}

/// The version in which an API server has a kind, if it has it.
pub(super) async fn served(
    client: &Client,
    watched: &Watched,
) -> kube::Result<Option<&'static str>> {
    for version in watched.versions {
        let found = get_if_there(client, &watched.discovery_path(version)).await?;
        let resources = found
            .as_ref()
            .and_then(|found| found["resources"].as_array());
        let named = |one: &Json| one["name"] == watched.plural;
        if resources.is_some_and(|all| all.iter().any(named)) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Nothing listens any longer.
struct Deaf;

struct Watch {
    client: Client,
    said: mpsc::Sender<(usize, Said)>,
    place: usize,
    followed: Followed,
    /// Whether lists may come as streams.
    streams: bool,
    /// Since it was last live.
    failures: u32,
}

// === impl Followed ===

impl Followed {
    /// All objects of a kind.
    pub(super) const fn all(kind: &'static Watched) -> Self {
        Self {
            kind,
            labels: None,
            fields: None,
        }
    }
}

// === impl Watch ===

impl Watch {
    async fn run(&mut self, watched: &Watched) -> Result<(), Deaf> {
        loop {
            let Some(version) = self.find(watched).await? else {
                self.say(Said::Of(Event::Absent)).await?;
                sleep(drawn(LOOK)).await;
                continue;
            };
            self.follow(watched, version).await?;
        }
    }

    /// The version in which the server has the kind, if it has it.
    ///
    /// A server that begins may not know its definitions at once, and a kind that only seems to be absent
    /// could be that of policies: so it is absent where it is not found after the server was ready.
    async fn find(&mut self, watched: &Watched) -> Result<Option<&'static str>, Deaf> {
        if watched.built_in {
            return Ok(watched.versions.first().copied());
        }
        let mut ready = false;
        loop {
            match served(&self.client, watched).await {
                Ok(None) if !ready => match self.ready().await {
                    Ok(()) => ready = true,
                    Err(e) => self.fail(&e).await?,
                },
                Ok(found) => return Ok(found),
                Err(e) => {
                    ready = false;
                    self.fail(&e).await?;
                }
            }
        }
    }

    /// Whether the server has begun in all.
    async fn ready(&self) -> kube::Result<()> {
        let request = http::Request::get("/readyz").body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    /// Lists and follows the objects until the kind is absent.
    async fn follow(&mut self, watched: &Watched, version: &str) -> Result<(), Deaf> {
        let path = Request::new(watched.path(version));
        let mut at: Option<String> = None;
        loop {
            let followed = match at.take() {
                Some(from) => self.events(&path, from, &mut at, false).await?,
                None if self.streams => self.events(&path, String::new(), &mut at, true).await?,
                None => match self.list(&path).await? {
                    Ok(from) => {
                        at = Some(from);
                        continue;
                    }
                    Err(e) => Err(e),
                },
            };
            let Err(e) = followed else {
                // The server ends each watch after its time.
                continue;
            };
            match judge(&e, self.streams && at.is_none()) {
                Verdict::Absent => {
                    self.fail(&e).await?;
                    return Ok(());
                }
                Verdict::Expired => at = None,
                Verdict::NoStreams => self.streams = false,
                Verdict::Later(_) => {}
            }
            self.fail(&e).await?;
        }
    }

    /// Lists in pages; returns the version of the list.
    async fn list(&mut self, path: &Request) -> Result<kube::Result<String>, Deaf> {
        self.say(Said::Of(Event::ListBegun)).await?;
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = self.followed.labels.map(str::to_owned);
        params.field_selector = self.followed.fields.map(str::to_owned);
        loop {
            let request = path.list(&params).map_err(kube::Error::BuildRequest);
            let page: ObjectList<Json> = match request {
                Ok(request) => match self.client.request(request).await {
                    Ok(page) => page,
                    Err(e) => return Ok(Err(e)),
                },
                Err(e) => return Ok(Err(e)),
            };
            for object in page.items {
                self.say(Said::Of(Event::Listed(object))).await?;
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.say(Said::Of(Event::ListDone)).await?;
                return Ok(Ok(page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    /// Follows events from a version, or from the beginning of a list that comes as a stream. `at` is
    /// from where to go on; it stays empty until a list is whole.
    async fn events(
        &mut self,
        path: &Request,
        from: String,
        at: &mut Option<String>,
        list: bool,
    ) -> Result<kube::Result<()>, Deaf> {
        let mut params = WatchParams::default().timeout(WATCH);
        params.send_initial_events = list;
        params.label_selector = self.followed.labels.map(str::to_owned);
        params.field_selector = self.followed.fields.map(str::to_owned);
        let request = path
            .watch(&params, &from)
            .map_err(kube::Error::BuildRequest);
        if !list {
            *at = Some(from);
        }
        let events = match request {
            Ok(request) => self.client.request_events::<Json>(request).await,
            Err(e) => Err(e),
        };
        let events = match events {
            Ok(events) => events,
            Err(e) => return Ok(Err(e)),
        };
        pin_mut!(events);
        self.say(match list {
            true => Said::Of(Event::ListBegun),
            false => Said::Live,
        })
        .await?;
        if !list {
            self.failures = 0;
        }
        while let Some(event) = events.next().await {
            let said = match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => match &at {
                    Some(_) => Event::Applied(self.seen(object, at)),
                    None => Event::Listed(object),
                },
                Ok(WatchEvent::Deleted(object)) => Event::Deleted(self.seen(object, at)),
                Ok(WatchEvent::Bookmark(mark)) => {
                    let meta = mark.metadata;
                    let end = meta.annotations.get(END).is_some_and(|end| end == "true");
                    let done = end && at.is_none();
                    if done || at.is_some() {
                        *at = Some(meta.resource_version);
                    }
                    if done {
                        self.say(Said::Of(Event::ListDone)).await?;
                        self.say(Said::Live).await?;
                        self.failures = 0;
                    }
                    continue;
                }
                Ok(WatchEvent::Error(status)) => return Ok(Err(kube::Error::Api(status))),
                Err(e) => return Ok(Err(e)),
            };
            self.say(Said::Of(said)).await?;
        }
        Ok(Ok(()))
    }

    /// Notes from where to watch again, once a list is whole.
    #[expect(clippy::unused_self, reason = "it reads as a step of the watch")]
    fn seen(&self, object: Json, at: &mut Option<String>) -> Json {
        let version = object
            .pointer("/metadata/resourceVersion")
            .and_then(Json::as_str);
        if let (Some(version), Some(at)) = (version, at) {
            version.clone_into(at);
        }
        object
    }

    /// Says why it does not follow, and waits.
    async fn fail(&mut self, e: &kube::Error) -> Result<(), Deaf> {
        let asked = match judge(e, false) {
            Verdict::Later(asked) => asked,
            _ => None,
        };
        self.say(Said::Failed(reason(self.followed.kind, e)))
            .await?;
        let wait = WAITS
            .0
            .saturating_mul(1 << self.failures.min(8))
            .min(WAITS.1);
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(ASKED);
        tokio::select! {
            () = sleep(drawn(wait).max(asked)) => Ok(()),
            () = self.said.closed() => Err(Deaf),
        }
    }

    async fn say(&self, said: Said) -> Result<(), Deaf> {
        self.said.send((self.place, said)).await.map_err(|_| Deaf)
    }
}

/// From half of a wait to all of it.
fn drawn(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

/// What an error means. `listing` is whether a list was to come as a stream.
pub(super) fn judge(e: &kube::Error, listing: bool) -> Verdict {
    let kube::Error::Api(status) = e else {
        return Verdict::Later(None);
    };
    match status.code {
        404 => Verdict::Absent,
        410 => Verdict::Expired,
        // It may be forbidden for now, or the server may be busy.
        401 | 403 | 429 | 503 | 504 => Verdict::Later(asked(status)),
        _ if listing => Verdict::NoStreams,
        _ => Verdict::Later(asked(status)),
    }
}

/// How long the server asks to wait.
fn asked(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// What, why and what to do, for a person.
fn reason(watched: &Watched, e: &kube::Error) -> String {
    let what = watched.plural;
    match e {
        kube::Error::Api(status) if status.code == 403 => {
            let group = match watched.group {
                "" => "the core group",
                group => group,
            };
            format!(
                "{what}: {}: the role needs get, list and watch on {what} of {group}",
                status.message
            )
        }
        kube::Error::Api(status) if status.code == 401 => {
            format!(
                "{what}: the API server does not take the credentials: {}",
                status.message
            )
        }
        kube::Error::Api(status) => format!("{what}: {} ({})", status.message, status.code),
        e => format!("{what}: {}", root(e)),
    }
}

/// The innermost error says what the outer ones do not.
pub(super) fn root(e: &dyn std::error::Error) -> String {
    let mut at = e;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
