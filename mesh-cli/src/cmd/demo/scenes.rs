//! The scenes: each says what it will do and what it may cost, does it, and is held to both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, StatusCode};
use inmesh_core::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout};

use super::docs;
use super::load::{Load, Seen, WORKERS};
use super::outcome::Outcome;
use super::screen::Screen;
use super::world::World;

/// How long an edit may take to be live.
const LIVE: Duration = Duration::from_secs(1);

/// What a scene came to.
struct Verdict {
    good: bool,
    seen: String,
}

pub(super) struct Run<'a> {
    pub(super) world: &'a mut World,
    pub(super) load: &'a Load,
    pub(super) screen: &'a mut Screen,
    pub(super) outcomes: Vec<Outcome>,
}

impl Run<'_> {
    /// Plays all scenes.
    pub(super) async fn play(&mut self) -> anyhow::Result<()> {
        for weight in [0, 10, 50, 100] {
            self.canary(weight).await?;
        }
        self.by_header().await?;
        self.slow().await?;
        self.failing().await?;
        self.denied().await?;
        self.drain().await
    }

    async fn canary(&mut self, weight: u32) -> anyhow::Result<()> {
        let name = format!("canary: {weight} % of cart to v2, by editing the HTTPRoute");
        let before = self.begin(&name, 0)?;
        self.world
            .publish("route.yaml", &docs::canary(100 - weight, weight))?;
        self.watch(LIVE).await?;
        self.load.reset()?;
        self.watch(Duration::from_secs(3)).await?;
        let seen = self.load.window();
        let share = Seen::share_of(&seen.versions, "v2") * 100.0;
        let answers: u64 = seen.versions.values().sum();
        // Four standard deviations of a split, and exactly all or nothing at the ends.
        let p = f64::from(weight) / 100.0;
        #[expect(clippy::cast_precision_loss, reason = "a bound for a share")]
        let spread = 400.0 * (p * (1.0 - p) / answers.max(1) as f64).sqrt();
        let found = Verdict {
            good: answers > 0 && (share - f64::from(weight)).abs() <= spread,
            seen: format!("v2 got {share:.1} % of {answers} (within {spread:.1} of {weight})"),
        };
        self.end(name, 0, before, found)
    }

    async fn by_header(&mut self) -> anyhow::Result<()> {
        let name = "A/B: x-group: beta gets v2, all others v1".to_owned();
        let before = self.begin(&name, 0)?;
        self.world.publish("route.yaml", &docs::by_header())?;
        self.watch(LIVE).await?;
        self.load.reset()?;
        self.watch(Duration::from_secs(2)).await?;
        let seen = self.load.window();
        let answers: u64 = seen.versions.values().sum();
        let found = Verdict {
            good: answers > 0 && seen.strays == 0,
            seen: format!("{} of {answers} went to the wrong version", seen.strays),
        };
        self.end(name, 0, before, found)
    }

    async fn slow(&mut self) -> anyhow::Result<()> {
        let slow = self.world.v1[0].name.clone();
        let name = format!("{slow} answers 300 ms late: least-request balancing goes around it");
        let before = self.begin(&name, 0)?;
        self.world.publish("route.yaml", &docs::canary(100, 0))?;
        self.watch(LIVE).await?;
        self.world.v1[0].mood.delay_ms.store(300, Ordering::Relaxed);
        self.load.reset()?;
        self.watch(Duration::from_secs(3)).await?;
        self.world.v1[0].mood.delay_ms.store(0, Ordering::Relaxed);
        let share = Seen::share_of(&self.load.window().endpoints, &slow) * 100.0;
        let found = Verdict {
            good: share < 100.0 / 6.0,
            seen: format!("it got {share:.1} % of the requests; its fair share is 33.3 %"),
        };
        self.end(name, 0, before, found)
    }

    async fn failing(&mut self) -> anyhow::Result<()> {
        let broken = self.world.v1[1].name.clone();
        let policy = docs::eject();
        let fails = Duration::from_millis(2_500);
        // One balancer (web's) sends to it. After base a probe fails, and the next comes 2 x base
        // later.
        let (balancers, probes) = (1, 2);
        let may_cost = (u64::from(policy.consecutive) - 1 + WORKERS as u64) * balancers + probes;
        let name = format!("{broken} answers 500: ejected, then back through a probe");
        let before = self.begin(&name, may_cost)?;
        self.world.v1[1].mood.fails.store(true, Ordering::Relaxed);
        let ejected = self.until(fails, |world| world.web_ejects() > 0).await?;
        self.watch(fails.saturating_sub(ejected.unwrap_or(fails)))
            .await?;
        self.world.v1[1].mood.fails.store(false, Ordering::Relaxed);
        self.load.reset()?;
        let back = self
            .until(Duration::from_secs(6), |world| world.web_ejects() == 0)
            .await?;
        self.load.reset()?;
        self.watch(Duration::from_secs(1)).await?;
        let share = Seen::share_of(&self.load.window().endpoints, &broken) * 100.0;
        let found = Verdict {
            good: ejected.is_some() && back.is_some() && share > 10.0,
            seen: match (ejected, back) {
                (Some(out), Some(back)) => format!(
                    "ejected after {} ms, back {} ms after it was mended, then {share:.1} % of the requests",
                    out.as_millis(),
                    back.as_millis()
                ),
                (None, _) => "it was not ejected".to_owned(),
                (_, None) => "it did not come back".to_owned(),
            },
        };
        self.end(name, may_cost, before, found)
    }

    async fn denied(&mut self) -> anyhow::Result<()> {
        let name = "an intruder with a valid identity calls cart: denied by policy".to_owned();
        let before = self.begin(&name, 0)?;
        let client = self.world.intruder.client();
        let mut denied = 0;
        for _ in 0..10 {
            let request = Request::get("http://cart/").body(Body::empty())?;
            let answer = client.send(request).await;
            let reason = answer.headers().get("x-mesh-reason");
            let by_policy = reason.is_some_and(|r| r == "denied");
            denied += u32::from(answer.status() == StatusCode::FORBIDDEN && by_policy);
            self.watch(Duration::from_millis(50)).await?;
        }
        let found = Verdict {
            good: denied == 10,
            seen: format!("{denied} of 10 were answered with 403 and the reason"),
        };
        self.end(name, 0, before, found)
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        let child = self.world.child_name.clone();
        let name = format!("SIGTERM to the agent of {child} under load: it drains");
        let before = self.begin(&name, 0)?;
        self.world.publish("route.yaml", &docs::canary(0, 100))?;
        self.watch(LIVE).await?;
        self.load.reset()?;
        self.watch(Duration::from_secs(1)).await?;
        let served = self
            .load
            .window()
            .endpoints
            .get(&child)
            .copied()
            .unwrap_or_default();
        let pid = self.world.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = pid else {
            let seen = "the child had ended before".to_owned();
            return self.end(name, 0, before, Verdict { good: false, seen });
        };
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let told = Instant::now();
        // As Kubernetes does: the endpoint is marked while the agent still serves.
        self.world.retire_child()?;
        let mut ended = None;
        while ended.is_none() && told.elapsed() < Duration::from_secs(12) {
            self.watch(Duration::from_millis(100)).await?;
            ended = self.world.child.try_wait()?;
        }
        let took = told.elapsed();
        self.load.reset()?;
        self.watch(Duration::from_millis(500)).await?;
        let after = self
            .load
            .window()
            .endpoints
            .get(&child)
            .copied()
            .unwrap_or_default();
        let found = Verdict {
            good: served > 0 && after == 0 && ended.is_some_and(|status| status.success()),
            seen: match ended {
                Some(status) => format!(
                    "it had served {served}, ended after {} ms with {status}, and got {after} after",
                    took.as_millis()
                ),
                None => "it did not end".to_owned(),
            },
        };
        self.end(name, 0, before, found)
    }

    /// Announces a scene; returns the failures so far.
    fn begin(&mut self, name: &str, may_cost: u64) -> anyhow::Result<u64> {
        let before = self.load.total().failures;
        self.load.reset()?;
        self.screen.scene(name, may_cost);
        Ok(before)
    }

    fn end(
        &mut self,
        scene: String,
        may_cost: u64,
        before: u64,
        found: Verdict,
    ) -> anyhow::Result<()> {
        let total = self.load.total();
        let cost = total.failures - before;
        let mut seen = found.seen;
        if cost > may_cost
            && let Some(failure) = &total.last_failure
        {
            seen += &format!("; the last failure: {failure}");
        }
        let outcome = Outcome {
            scene,
            ok: found.good && cost <= may_cost,
            may_cost,
            cost,
            seen,
        };
        self.screen.outcome(&outcome);
        self.outcomes.push(outcome);
        Ok(())
    }

    /// Shows what happens for a while.
    async fn watch(&mut self, long: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + long;
        loop {
            self.screen.draw(self.world, self.load)?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Shows what happens until something has; returns how long that took.
    async fn until(
        &mut self,
        limit: Duration,
        happened: impl Fn(&World) -> bool,
    ) -> anyhow::Result<Option<Duration>> {
        let started = Instant::now();
        while started.elapsed() < limit {
            if happened(self.world) {
                return Ok(Some(started.elapsed()));
            }
            self.screen.draw(self.world, self.load)?;
            sleep(Duration::from_millis(10)).await;
        }
        Ok(None)
    }
}

impl World {
    /// How many endpoints web's balancer has ejected.
    fn web_ejects(&self) -> usize {
        let status = self.web.status();
        let endpoints = status.services.iter().flat_map(|s| &s.endpoints);
        endpoints.filter(|e| e.ejected).count()
    }

    /// Ends everything: the meshes at once, and the child, so that no process is left behind.
    pub(super) async fn end(mut self) {
        let meshes = self.meshes.iter().map(|(_, mesh)| mesh);
        for mesh in meshes.chain([&self.intruder]) {
            // A second call cuts what the first would wait for.
            tokio::join!(mesh.drain(), mesh.drain());
        }
        if let Ok(None) = self.child.try_wait() {
            let _ended = timeout(Duration::from_secs(2), self.child.kill()).await;
        }
    }
}
