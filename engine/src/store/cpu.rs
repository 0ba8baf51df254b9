//! Work for the CPU, off the threads that serve connections, as much at a time as there are processors.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Where work for the CPU goes; clones share it.
#[derive(Clone, Debug)]
pub struct Cpu(Arc<Semaphore>);

/// The work ended abnormally, or the process ends.
#[derive(Clone, Debug, thiserror::Error)]
#[error("work on an answer ended abnormally: {0}")]
pub struct Broken(String);

impl Default for Cpu {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))))
    }
}

impl Cpu {
    /// Does the work. Dropping the future does not stop it: long work asks a [`super::series::spec::Stop`].
    ///
    /// # Errors
    /// When it panics.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Broken> {
        let broken = |e: &dyn std::fmt::Display| Broken(e.to_string());
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(|e| broken(&e))?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|e| broken(&e))
    }
}
