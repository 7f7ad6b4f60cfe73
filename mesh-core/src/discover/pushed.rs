//! A source that is fed by hand.

use tokio::sync::{mpsc, oneshot};

use super::{Applied, Gone, Sink, Source};
use crate::drain::Drain;
use crate::model::SourceId;
use crate::snapshot::{Change, Op};

/// A source that pushes what its [`Pusher`] is given: for embedders that know their endpoints
/// themselves, and for tests.
#[derive(Debug)]
pub struct Pushed {
    id: SourceId,
    queue: mpsc::Receiver<Pushing>,
}

/// Gives a [`Pushed`] source what to push.
#[derive(Debug, Clone)]
pub struct Pusher {
    id: SourceId,
    queue: mpsc::Sender<Pushing>,
}

type Pushing = (Change, oneshot::Sender<Applied>);

/// Makes a source and its pusher. The source has synced once the first operations were pushed.
///
/// ```
/// use inmesh_core::discover::{Source, pushed};
/// let (pusher, source) = pushed("me");
/// assert_eq!(source.id().to_string(), "me");
/// # drop(pusher);
/// ```
pub fn pushed(name: &str) -> (Pusher, Pushed) {
    let id = SourceId::new(name);
    let (sender, receiver) = mpsc::channel(8);
    let pusher = Pusher {
        id: id.clone(),
        queue: sender,
    };
    let source = Pushed {
        id,
        queue: receiver,
    };
    (pusher, source)
}

// === impl Pusher ===

impl Pusher {
    /// Pushes operations as one change and waits until a snapshot holds it.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn push(&self, ops: Vec<Op>) -> Result<Applied, Gone> {
        let change = Change::update(self.id.clone(), ops);
        let (sender, applied) = oneshot::channel();
        let pushing = (change, sender);
        self.queue.send(pushing).await.map_err(|_| Gone)?;
        applied.await.map_err(|_| Gone)
    }
}

// === impl Pushed ===

impl Source for Pushed {
    fn id(&self) -> SourceId {
        self.id.clone()
    }

    async fn run(mut self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
        loop {
            tokio::select! {
                pushing = self.queue.recv() => match pushing {
                    Some((change, acknowledge)) => {
                        let applied = sink.apply(change).await?;
                        sink.synced().await?;
                        let _waits = acknowledge.send(applied);
                    }
                    // Every pusher is gone; what was pushed stays.
                    None => break,
                },
                () = drain.closed() => break,
            }
        }
        drain.closed().await;
        Ok(())
    }
}
