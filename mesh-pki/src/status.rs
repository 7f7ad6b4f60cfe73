//! The status of a running task in, the latest one out: to metrics, an admin page, a test.

use tokio::sync::watch;

use crate::store::SourceEnded;

/// Reads how a running task is doing; cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusReader<T>(watch::Receiver<T>);

#[derive(Debug)]
pub(crate) struct StatusWriter<T>(watch::Sender<T>);

pub(crate) fn status<T>(initial: T) -> StatusWriter<T> {
    StatusWriter(watch::Sender::new(initial))
}

impl<T: Clone> StatusReader<T> {
    /// The latest status; it stays readable when the task has ended.
    #[must_use]
    pub fn load(&self) -> T {
        self.0.borrow().clone()
    }

    /// Waits for a status that this reader has not seen. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`SourceEnded`] once the task is gone and its last status has been returned.
    pub async fn changed(&mut self) -> Result<T, SourceEnded> {
        self.0.changed().await.map_err(|_| SourceEnded)?;
        Ok(self.0.borrow_and_update().clone())
    }
}

impl<T> StatusWriter<T> {
    pub(crate) fn reader(&self) -> StatusReader<T> {
        StatusReader(self.0.subscribe())
    }

    /// Changes the status, and notifies readers.
    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) {
        self.0.send_modify(change);
    }
}
