//! Places for work that takes a thread, and may wait there for what a container holds: the lock of its cgroup's directory or
//! of a terminal, which a process of it has while it waits for its own FUSE.
//!
//! Each kind of work has places of its own in each container. So those that hang keep nobody from another kind, nor from the
//! pod's other containers; who finds no place in time, or no end of the work, is told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Start of the first process.
    Start,
    /// Pause.
    Pause,
    /// Resume.
    Resume,
    /// Update.
    Update,
    /// Delete.
    Delete,
    /// Kill of all, with SIGKILL.
    Kill,
    /// Kill of all, with another signal.
    Signal,
    /// Stats.
    Stats,
    /// Pids.
    Pids,
    /// What an exec begins with.
    Exec,
    /// Resizing a terminal.
    Resize,
    /// Closing a terminal.
    Close,
}

/// All of them, as they are numbered.
const ALL: [Kind; 12] = [
    Kind::Start,
    Kind::Pause,
    Kind::Resume,
    Kind::Update,
    Kind::Delete,
    Kind::Kill,
    Kind::Signal,
    Kind::Stats,
    Kind::Pids,
    Kind::Exec,
    Kind::Resize,
    Kind::Close,
];

impl Kind {
    /// How many may be at it at a time.
    const fn places(self) -> usize {
        match self {
            Kind::Start | Kind::Pause | Kind::Resume | Kind::Update | Kind::Delete | Kind::Kill => {
                1
            }
            Kind::Signal | Kind::Stats | Kind::Pids | Kind::Resize | Kind::Close => 4,
            Kind::Exec => 8,
        }
    }

    /// How long one waits for its place and, where it can be left to itself, for its end. A kill has 10 s for itself.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Kind::Kill | Kind::Exec => 30,
            _ => 10,
        })
    }

    /// Words for what is done.
    fn name(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::Pause => "pause",
            Kind::Resume => "resume",
            Kind::Update => "update",
            Kind::Delete => "delete",
            Kind::Kill => "kill",
            Kind::Signal => "signal",
            Kind::Stats => "stats",
            Kind::Pids => "pids",
            Kind::Exec => "exec",
            Kind::Resize => "resize",
            Kind::Close => "close of a terminal",
        }
    }
}

/// All threads that a container takes.
pub(crate) const OF_A_CONTAINER: usize = {
    // The last one is what follows the end of init.
    let (mut all, mut n) = (1, 0);
    while n < ALL.len() {
        all += ALL[n].places();
        n += 1;
    }
    all
};

/// The places of a container.
#[derive(Debug)]
pub(crate) struct Places {
    container: String,
    free: [Arc<Semaphore>; ALL.len()],
}

impl Places {
    /// Those of container `id`, all free.
    pub(crate) fn new(id: &str) -> Arc<Places> {
        Arc::new(Places {
            container: id.into(),
            free: ALL.map(|kind| Arc::new(Semaphore::new(kind.places()))),
        })
    }

    fn free(&self, kind: Kind) -> Arc<Semaphore> {
        self.free[kind as usize].clone()
    }

    /// Until when somebody waits who comes now.
    pub(crate) fn deadline(kind: Kind) -> Instant {
        Instant::now() + kind.patience()
    }

    /// Takes a place.
    ///
    /// # Errors
    /// There is none in time.
    pub(crate) async fn take(&self, kind: Kind, until: Instant) -> Result<OwnedSemaphorePermit> {
        match timeout_at(until, self.free(kind).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(self.busy(kind.name())),
        }
    }

    /// That `what` is being done already, and does not end.
    pub(crate) fn busy(&self, what: &str) -> Error {
        Error::FailedPrecondition(format!(
            "{what} of container {} is under way already and does not end: something in it hangs; a kill of it ends that",
            self.container
        ))
    }

    /// Runs `work` on a thread, with a place for it.
    ///
    /// # Errors
    /// Those of the work; no place, or no end of it, in time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let until = Places::deadline(kind);
        let place = self.take(kind, until).await?;
        self.within(kind, until, place, work).await
    }

    /// Runs `work` on a thread, where it goes on even if nobody waits any more; it has what is `held` until it ends.
    ///
    /// # Errors
    /// Those of the work; no end of it in time.
    pub(crate) async fn within<T: Send + 'static>(
        &self,
        kind: Kind,
        until: Instant,
        held: impl Send + 'static,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let working = spawn_blocking(move || {
            let done = work();
            drop(held);
            done
        });
        match timeout_at(until, working).await {
            Ok(Ok(done)) => done,
            Ok(Err(panicked)) => Err(Error::Internal(panicked.to_string())),
            Err(_) => Err(Error::Internal(format!(
                "{} of container {} does not end within {} s: what it needs of the container hangs; a kill of it ends that",
                kind.name(),
                self.container,
                kind.patience().as_secs()
            ))),
        }
    }

    /// Drops `ends` of a terminal, for which nobody waits.
    pub(crate) fn close(&self, ends: impl Send + 'static) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let free = self.free(Kind::Close);
        runtime.spawn(async move {
            // It is never closed.
            let place = free.acquire_owned().await;
            spawn_blocking(move || {
                drop(ends);
                drop(place);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use ttrpc::Code;

    #[test]
    fn each_kind_is_at_its_number() {
        for (n, kind) in ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
        }
    }

    #[tokio::test]
    async fn who_hangs_keeps_nobody_else_waiting() {
        let places = Places::new("c1");
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let until = Instant::now() + Duration::from_millis(200);
        let stats = |n: usize| {
            let (places, held) = (places.clone(), held.clone());
            tokio::spawn(async move {
                let place = places.take(Kind::Stats, until).await?;
                let hang = move || {
                    let _ = held.lock().map(|held| held.recv());
                    Ok(n)
                };
                places.within(Kind::Stats, until, place, hang).await
            })
        };
        let hanging: Vec<_> = (0..6).map(stats).collect();
        tokio::task::yield_now().await;
        assert_eq!(places.run(Kind::Pids, || Ok(7)).await.unwrap(), 7);
        let mut told = Vec::new();
        for hanging in hanging {
            told.push(hanging.await.unwrap().unwrap_err());
        }
        let count = |code| told.iter().filter(|error| error.code() == code).count();
        let all = format!("{told:?}");
        assert_eq!(count(Code::INTERNAL), 4, "{all}");
        assert_eq!(count(Code::FAILED_PRECONDITION), 2, "{all}");
        assert!(all.contains("stats of container c1"), "{all}");
        // Whoever hung has its place until it ends.
        drop(release);
        assert_eq!(places.run(Kind::Stats, || Ok(8)).await.unwrap(), 8);
    }

    #[tokio::test]
    async fn what_is_closed_is_dropped_elsewhere() {
        struct Told(mpsc::Sender<std::thread::ThreadId>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::current().id());
            }
        }
        let (sender, dropped) = mpsc::channel();
        Places::new("c1").close(Told(sender));
        let id = spawn_blocking(move || dropped.recv()).await.unwrap();
        assert_ne!(id.unwrap(), std::thread::current().id());
    }
}
