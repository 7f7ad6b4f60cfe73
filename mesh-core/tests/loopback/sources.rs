//! Sources: acknowledgement, loss, and which of them a mesh waits for.

use std::time::Duration;

use inmesh_core::Mesh;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Gone, Sink, Source, SourceState, pushed};
use inmesh_core::drain::Drain;
use inmesh_core::explain::Question;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, SourceId, Workload};
use inmesh_core::runtime::{MeshBuilder, WantsNothing};
use inmesh_core::snapshot::{Change, Fallback, Op, Problem, Serving};
use inmesh_core::testing::World;
use tokio::sync::{mpsc, oneshot};

use crate::support::{Result, soon};

/// A source whose sink is given to the test.
struct Handed(&'static str, oneshot::Sender<Sink>);

impl Source for Handed {
    fn id(&self) -> SourceId {
        SourceId::new(self.0)
    }

    async fn run(self, sink: Sink, mut drain: Drain) -> std::result::Result<(), Gone> {
        self.1.send(sink).map_err(drop).ok();
        drain.closed().await;
        Ok(())
    }
}

fn handed(name: &'static str) -> (Handed, oneshot::Receiver<Sink>) {
    let (sender, sink) = oneshot::channel();
    (Handed(name, sender), sink)
}

fn builder(world: &World) -> Result<MeshBuilder<WantsNothing>> {
    let (_, reader) = world.identity("web")?;
    let web = Workload::new("shop", "web", "web")?;
    let builder = Mesh::builder().crypto(world.crypto().clone());
    Ok(builder.identity(reader).workload(web, DefaultAction::Deny))
}

fn state(mesh: &Mesh, source: &str) -> Option<SourceState> {
    mesh.status().sources.get(source).map(|of| of.state.clone())
}

#[tokio::test]
async fn a_change_is_acknowledged_with_what_became_of_it() -> Result {
    let world = World::new()?;
    let (first, first_source) = pushed("first");
    let (second, second_source) = pushed("second");
    let mesh = builder(&world)?
        .source(first_source)
        .source(second_source)
        .start()?;
    let at = [([127, 0, 0, 1], 1).into()];
    let ops = || world.service("cart", AppProtocol::Http1, &at);
    let applied = first.push(ops()?).await?;
    assert_eq!((applied.generation, applied.problems), (1, vec![]));
    // A snapshot holds it by then.
    assert_eq!(mesh.snapshot().load().generation(), 1);
    let shadowed = second.push(ops()?).await?;
    assert_eq!(shadowed.generation, 1, "nothing that serves has changed");
    let objects: Vec<_> = shadowed.problems.iter().map(|s| &*s.object).collect();
    assert_eq!(objects, ["Service/shop/cart", "EndpointSlice/shop/cart-0"]);
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "p")?;
    let refused = Op::Refuse(key, Fallback::Absent, vec![Problem::refused("spec", "bad")]);
    let applied = second.push(vec![refused]).await?;
    let [refused] = &applied.problems[..] else {
        return Err(format!("{applied:?}").into());
    };
    assert_eq!(refused.serving, Serving::Nothing);
    assert_eq!(refused.problems[0].message, "bad");
    Ok(())
}

/// One of two control planes is down at the start: the other's state is enough.
#[tokio::test]
async fn one_source_of_a_group_is_enough_to_be_ready() -> Result {
    let world = World::new()?;
    let (one, one_sink) = handed("one");
    let (other, other_sink) = handed("other");
    let (files, files_sink) = handed("files");
    let mesh = builder(&world)?
        .source(one)
        .or_source(other)
        .source(files)
        .start()?;
    let (one, other, files) = (one_sink.await?, other_sink.await?, files_sink.await?);
    one.lost("connection refused").await?;
    let (said, mut waited) = mpsc::channel(1);
    tokio::spawn({
        let mesh = mesh.clone();
        async move {
            mesh.ready().await;
            said.send(()).await
        }
    });
    other
        .apply(Change::replace(SourceId::new("other"), vec![]))
        .await?;
    other.synced().await?;
    // The group is ready, the files are not.
    files
        .apply(Change::replace(SourceId::new("files"), vec![]))
        .await?;
    assert_eq!(mesh.status().not_ready, ["source files has not synced yet"]);
    assert!(waited.try_recv().is_err());
    files.synced().await?;
    assert_eq!(soon(waited.recv()).await?, Some(()));
    assert_eq!(
        state(&mesh, "one"),
        Some(SourceState::Waiting(Some("connection refused".to_owned())))
    );
    assert_eq!(state(&mesh, "other"), Some(SourceState::Synced));
    Ok(())
}

#[tokio::test]
async fn nothing_synced_names_what_it_waits_for() -> Result {
    let world = World::new()?;
    let (one, one_sink) = handed("one");
    let (other, _other_sink) = handed("other");
    let mesh = builder(&world)?.source(one).or_source(other).start()?;
    let one = one_sink.await?;
    one.lost("no route to host").await?;
    // A message behind it has been applied, so it has been too.
    one.apply(Change::update(SourceId::new("one"), vec![]))
        .await?;
    assert_eq!(
        mesh.status().not_ready,
        ["none of the sources one (no route to host), other has synced yet"]
    );
    Ok(())
}

/// What was kept from before counts; what is lost later serves on and is seen.
#[tokio::test]
async fn kept_state_is_enough_to_start_and_a_loss_is_seen() -> Result {
    let world = World::new()?;
    let (source, sink) = handed("control");
    let mesh = builder(&world)?.source(source).start()?;
    let sink = sink.await?;
    let at = [([127, 0, 0, 1], 1).into()];
    let ops = world.service("cart", AppProtocol::Http1, &at)?;
    sink.push(Change::replace(SourceId::new("control"), ops))
        .await?;
    sink.kept().await?;
    soon(mesh.ready()).await?;
    let settled = async |wanted: SourceState| -> Result {
        sink.apply(Change::update(SourceId::new("control"), vec![]))
            .await?;
        assert_eq!(state(&mesh, "control"), Some(wanted));
        assert_eq!(mesh.status().services.len(), 1, "it serves");
        assert!(mesh.status().ready);
        Ok(())
    };
    settled(SourceState::Kept).await?;
    sink.synced().await?;
    settled(SourceState::Synced).await?;
    sink.lost("reset").await?;
    settled(SourceState::Lost("reset".to_owned())).await?;
    sink.synced().await?;
    settled(SourceState::Synced).await?;
    Ok(())
}

/// A source that is out of sync is doubted after its time, aloud and once; it serves on.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_out_of_sync_for_long_is_stale() -> Result {
    let world = World::new()?;
    let ((one, one_sink), (two, two_sink)) = (handed("one"), handed("two"));
    let mesh = builder(&world)?
        .stale_after(Duration::from_secs(60))
        .source(one)
        .stale_after(Duration::MAX)
        .source(two)
        .start()?;
    let (one, two) = (one_sink.await?, two_sink.await?);
    let at = [([127, 0, 0, 1], 1).into()];
    one.apply(Change::replace(
        SourceId::new("one"),
        world.service("cart", AppProtocol::Http1, &at)?,
    ))
    .await?;
    two.apply(Change::replace(
        SourceId::new("two"),
        world.service("shelf", AppProtocol::Http1, &at)?,
    ))
    .await?;
    for sink in [&one, &two] {
        sink.synced().await?;
    }
    mesh.ready().await;
    tokio::time::advance(Duration::from_secs(600)).await;
    for sink in [&one, &two] {
        sink.lost("gone").await?;
    }
    // What is applied after them has seen them.
    let settle = async || {
        one.apply(Change::update(SourceId::new("one"), vec![]))
            .await
    };
    settle().await?;
    let endpoint = |service: &str| -> Option<String> {
        let question = Question::parse(&format!("GET http://{service}/")).ok()?;
        mesh.explain(&question).endpoints.first()?.stale.clone()
    };
    let metric = |line: &str| mesh.encode_metrics().lines().any(|l| l == line);
    for (later, age, stale) in [(59, 59, false), (2, 61, true), (100, 161, true)] {
        tokio::time::advance(Duration::from_secs(later)).await;
        settle().await?;
        let status = mesh.status();
        let of = |id: &str| {
            status
                .sources
                .get(id)
                .map(|s| (s.age, s.stale, s.stale_after))
        };
        assert_eq!(of("one"), Some((age, stale, Some(60))));
        assert_eq!(of("two"), Some((age, false, None)));
        assert!(status.ready && status.services.len() == 2);
        assert_eq!(endpoint("cart"), stale.then(|| "one".to_owned()));
        assert_eq!(endpoint("shelf"), None);
        let line = format!("mesh_source_stale{{source=\"one\"}} {}", u8::from(stale));
        assert!(metric(&line), "{}", mesh.encode_metrics());
        assert!(metric(&format!(
            "mesh_source_age_seconds{{source=\"one\"}} {age}"
        )));
    }
    one.synced().await?;
    settle().await?;
    let known = mesh.status().sources;
    assert_eq!(known.get("one").map(|s| (s.age, s.stale)), Some((0, false)));
    assert_eq!(endpoint("cart"), None);
    Ok(())
}
