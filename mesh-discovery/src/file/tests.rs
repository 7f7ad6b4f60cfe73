//! Real folders, real edits: what is on disk in, what the snapshot says out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Inbox, Message, Source, SourceState};
use inmesh_core::drain::{DrainTrigger, drain};
use inmesh_core::model::{Namespace, SourceId, Workload};
use inmesh_core::snapshot::{Problem, Settings, Snapshot, SnapshotReader, snapshot};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{FileSource, Seen};
use crate::manifest::Defaults;

/// Far more than any edit takes.
const LONG: Duration = Duration::from_secs(30);

fn defaults() -> Defaults {
    Defaults::new(Namespace::new("default").expect("a name"))
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

/// A source that runs, and the snapshot that it feeds.
struct World {
    reader: SnapshotReader,
    /// How many changes came.
    changes: watch::Receiver<usize>,
    synced: watch::Receiver<bool>,
    drain: DrainTrigger,
    source: JoinHandle<Result<(), inmesh_core::discover::Gone>>,
}

impl World {
    fn start(dir: &Path) -> Self {
        let workload = Workload::new("shop", "cart", "cart").expect("names");
        let settings = Settings::new(workload, DefaultAction::Deny);
        let (mut writer, reader) = snapshot(Snapshot::new(settings));
        let (count, changes) = watch::channel(0);
        let (say_synced, synced) = watch::channel(false);
        let source = FileSource::new(dir, defaults());
        let mut inbox = Inbox::new(reader.clone());
        let sink = inbox.sink(source.id());
        let (drain, watch) = drain();
        tokio::spawn(async move {
            while let Some(message) = inbox.next().await {
                match message {
                    Message::Change(change, _) => {
                        assert!(change.replace);
                        writer.apply(change);
                        count.send_modify(|n| *n += 1);
                    }
                    Message::State(_, state) => {
                        say_synced.send_replace(state == SourceState::Synced);
                    }
                    _ => {}
                }
            }
        });
        let source = tokio::spawn(source.run(sink, watch));
        Self {
            reader,
            changes,
            synced,
            drain,
            source,
        }
    }

    /// Waits until status lists exactly these objects.
    async fn lists(&mut self, wanted: &[&str]) {
        let listed = || -> Vec<String> {
            self.reader
                .load()
                .status()
                .into_iter()
                .map(|s| s.object)
                .collect()
        };
        let mut changes = self.changes.clone();
        let waited = timeout(LONG, async {
            while listed() != wanted {
                changes.changed().await.expect("the writer lives");
            }
        });
        if waited.await.is_err() {
            panic!("{:?} is not {wanted:?}", listed());
        }
    }

    async fn stop(self) {
        self.drain.advance(inmesh_core::drain::Phase::Closed);
        let ended = timeout(LONG, self.source)
            .await
            .expect("it ends")
            .expect("no panic");
        assert_eq!(ended, Ok(()));
    }
}

#[tokio::test]
async fn edits_are_live() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), service("a")).expect("written");
    let mut world = World::start(dir.path());
    world.lists(&["Service/default/a"]).await;
    timeout(LONG, world.synced.wait_for(|synced| *synced))
        .await
        .expect("synced")
        .expect("lives");

    // A new file, an atomic rename into the folder, JSON, and what is left out.
    fs::write(at("b.yml"), service("b")).expect("written");
    world
        .lists(&["Service/default/a", "Service/default/b"])
        .await;
    for ignored in [".hidden.yaml", "notes.txt", "c.yaml~"] {
        fs::write(at(ignored), service("ignored")).expect("written");
    }
    fs::create_dir(at("folder.yaml")).expect("made");
    fs::write(at(".c.tmp"), service("c")).expect("written");
    fs::rename(at(".c.tmp"), at("c.json")).expect("renamed");
    world
        .lists(&[
            "Service/default/a",
            "Service/default/b",
            "Service/default/c",
        ])
        .await;

    // A bad edit keeps, a deletion deletes.
    fs::write(at("a.yaml"), "a: [").expect("written");
    let kept = [
        "File/default/a.yaml",
        "Service/default/a",
        "Service/default/b",
        "Service/default/c",
    ];
    world.lists(&kept).await;
    fs::remove_file(at("a.yaml")).expect("removed");
    fs::rename(at("b.yml"), at("b.old")).expect("renamed");
    world.lists(&["Service/default/c"]).await;
    world.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_config_map() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, holds: &str| {
        fs::create_dir(at(name)).expect("made");
        fs::write(at(name).join("a.yaml"), service(holds)).expect("written");
    };
    version("..1", "one");
    symlink("..1", at("..data")).expect("linked");
    symlink("..data/a.yaml", at("a.yaml")).expect("linked");
    let mut world = World::start(dir.path());
    world.lists(&["Service/default/one"]).await;
    version("..2", "two");
    symlink("..2", at("..data_tmp")).expect("linked");
    fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    world.lists(&["Service/default/two"]).await;

    // A link that leads nowhere keeps its objects.
    fs::remove_file(at("..data")).expect("removed");
    world
        .lists(&["File/default/a.yaml", "Service/default/two"])
        .await;
    world.stop().await;
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_everything() {
    let parent = tempfile::tempdir().expect("a folder");
    let dir = parent.path().join("mesh");
    // Waited for while it does not exist.
    let mut world = World::start(&dir);
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("a.yaml"), service("a")).expect("written");
    world.lists(&["Service/default/a"]).await;
    fs::rename(&dir, parent.path().join("aside")).expect("renamed");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("b.yaml"), service("b")).expect("written");
    world.lists(&["Service/default/b"]).await;
    world.stop().await;
}

#[tokio::test]
async fn one_settled_edit_is_one_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::start(dir.path());
    timeout(LONG, world.synced.wait_for(|synced| *synced))
        .await
        .expect("synced")
        .expect("lives");
    assert_eq!(*world.changes.borrow(), 1, "the empty folder");
    let names: Vec<String> = (0..50)
        .map(|n| format!("Service/default/s{n:02}"))
        .collect();
    for n in 0..50 {
        fs::write(
            dir.path().join(format!("{n}.yaml")),
            service(&format!("s{n:02}")),
        )
        .expect("written");
    }
    world
        .lists(&names.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    assert!(
        *world.changes.borrow() <= 25,
        "{} changes",
        *world.changes.borrow()
    );
    world.stop().await;
}

#[test]
fn read_once_gives_problems_with_their_place() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.yaml"), service("A")).expect("written");
    fs::write(dir.path().join("b.yaml"), [0xff, 0xfe]).expect("written");
    fs::write(dir.path().join("c.yaml"), vec![b' '; (1 << 20) + 1]).expect("written");
    let merged = FileSource::read_once(dir.path(), &defaults()).expect("it is read");
    let (change, problems) = (merged.change, merged.problems);
    assert_eq!(
        change.source,
        SourceId::new(format!("file:{}", dir.path().display()))
    );
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let at = |file: &str| format!("{}/{file}", dir.path().display());
    assert!(texts[0].starts_with(&format!(
        "{}:3: metadata.name: \"A\": it must be",
        at("a.yaml")
    )));
    assert_eq!(
        texts[1],
        format!(
            "{}:1: the file cannot be read: it is not UTF-8",
            at("b.yaml")
        )
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("c.yaml:1: the file cannot be read: it is larger"))
    );
    assert!(FileSource::read_once(&dir.path().join("none"), &defaults()).is_err());
}

/// No event comes for an edit behind a link, so the poll must find it; its time is virtual here.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn the_poll_finds_what_nobody_tells() {
    let (dir, outside) = (tempfile::tempdir(), tempfile::tempdir());
    let (dir, outside) = (dir.expect("a folder"), outside.expect("a folder"));
    let target = outside.path().join("target");
    fs::write(&target, service("one")).expect("written");
    std::os::unix::fs::symlink(&target, dir.path().join("a.yaml")).expect("linked");
    let mut world = World::start(dir.path());
    world.lists(&["Service/default/one"]).await;
    fs::write(&target, service("two")).expect("written");
    world.lists(&["Service/default/two"]).await;
    world.stop().await;
}

#[test]
fn a_folder_that_is_gone_says_nothing() {
    let parent = tempfile::tempdir().expect("a folder");
    let dir = parent.path().join("mesh");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("a.yaml"), service("a")).expect("written");
    let mut look = FileSource::new(&dir, defaults()).look;
    assert!(matches!(look.look(true), Seen::Change(_)));
    assert!(matches!(look.look(true), Seen::Same));
    fs::rename(&dir, parent.path().join("aside")).expect("renamed");
    assert!(matches!(look.look(true), Seen::Gone(_)));
    fs::rename(parent.path().join("aside"), &dir).expect("renamed");
    assert!(matches!(look.look(true), Seen::Same));
}

#[test]
fn a_problem_is_logged_once() {
    let mut look = FileSource::new("x", defaults()).look;
    let problem = Problem::refused("spec", "is wrong");
    look.log(&[problem.clone(), problem.clone()]);
    assert_eq!(look.logged.len(), 1);
    look.log(&[problem]);
    assert_eq!(look.logged.len(), 1);
    look.log(&[]);
    assert!(look.logged.is_empty());
}

/// The runtime learns that what it has is not kept current, and when it is again.
#[tokio::test]
async fn a_folder_that_is_gone_is_out_of_sync_until_it_is_back() {
    let place = tempfile::tempdir().expect("a folder");
    let (dir, away) = (place.path().join("here"), place.path().join("away"));
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("a.yaml"), service("a")).expect("written");
    let mut world = World::start(&dir);
    world.lists(&["Service/default/a"]).await;
    let mut synced = world.synced.clone();
    for (from, to, wanted) in [(&dir, &away, false), (&away, &dir, true)] {
        fs::rename(from, to).expect("moved");
        let seen = timeout(LONG, synced.wait_for(|synced| *synced == wanted)).await;
        assert!(seen.is_ok(), "{wanted}");
        world.lists(&["Service/default/a"]).await;
    }
    world.stop().await;
}
