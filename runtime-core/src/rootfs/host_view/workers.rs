//! Threads for operations that may never end, each with a deadline.
//!
//! The container can hold the lock of any of its directories for as long as it likes. An operation that waits for one takes
//! a thread with it until the lock is free, or the container is killed; who asked is answered at the deadline. When all threads
//! are lost so, nothing can be done here any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most threads.
pub(super) const THREADS: usize = 16;
/// How long a thread waits for the next operation.
const IDLE: Duration = Duration::from_secs(1);

type Act = Box<dyn FnOnce() + Send>;

/// The threads, which come with the load and go without it.
#[derive(Clone)]
pub(super) struct Workers {
    shared: Arc<Shared>,
    patience: Duration,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// Never notified: the first deadline does not change.
    deadline: Condvar,
    /// Called when every thread is with an operation whose deadline has passed.
    all_hang: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, Act)>,
    /// What to do at the deadlines of operations that have not ended, in the order of their beginning and so of their
    /// deadlines.
    late: BTreeMap<u64, (Instant, Act)>,
    /// What threads are with.
    running: BTreeSet<u64>,
    last: u64,
    threads: usize,
    idle: usize,
    watched: bool,
}

impl Workers {
    /// No threads yet; `patience` is how long an operation may take, `all_hang` what to do when no thread is left.
    pub(super) fn new(patience: Duration, all_hang: impl Fn() + Send + Sync + 'static) -> Workers {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            deadline: Condvar::new(),
            all_hang: Box::new(all_hang),
        };
        Workers {
            shared: Arc::new(shared),
            patience,
        }
    }

    /// Has `act` done, and `late` if it has not ended at its deadline. `act` may end after that.
    pub(super) fn run(
        &self,
        act: impl FnOnce() + Send + 'static,
        late: impl FnOnce() + Send + 'static,
    ) {
        let mut state = self.shared.lock();
        state.last += 1;
        let number = state.last;
        state.queue.push_back((number, Box::new(act)));
        let deadline = Instant::now() + self.patience;
        state.late.insert(number, (deadline, Box::new(late)));
        // Where none can be started there is one that runs, or the next operation tries again.
        if state.idle < state.queue.len() && state.threads < THREADS {
            state.threads += usize::from(self.start("view-worker", Shared::work));
        }
        if !state.watched {
            state.watched = self.start("view-deadlines", Shared::watch);
        }
        drop(state);
        self.shared.work.notify_one();
    }

    fn start(&self, name: &str, body: fn(&Shared)) -> bool {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.into());
        let started = thread.spawn(move || body(&shared));
        if let Err(error) = &started {
            tracing::warn!(%error, "no thread {name}");
        }
        started.is_ok()
    }
}

impl Shared {
    /// Does what there is to do until nothing comes any more.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((number, act)) = state.queue.pop_front() {
                state.running.insert(number);
                drop(state);
                act();
                state = self.lock();
                state.running.remove(&number);
                state.late.remove(&number);
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Does what is to be done at deadlines, until there is none.
    fn watch(&self) {
        let mut state = self.lock();
        while let Some((_, (deadline, _))) = state.late.first_key_value() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let passed = state.late.pop_first();
                let all_hang = state.all_hang();
                drop(state);
                if let Some((_, (_, late))) = passed {
                    late();
                }
                if all_hang {
                    (self.all_hang)();
                }
                state = self.lock();
            } else {
                let waited = self.deadline.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.watched = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of others runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn all_hang(&self) -> bool {
        let hang = |number: &&u64| !self.late.contains_key(number);
        self.running.iter().filter(hang).count() == THREADS
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};

    use super::*;

    #[test]
    fn what_hangs_is_answered_at_its_deadline_and_holds_nobody_up() {
        let workers = Workers::new(Duration::from_millis(200), || panic!("one thread is left"));
        let (free, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (answers, answered) = mpsc::channel();
        for number in 0..THREADS - 1 {
            let (gate, done, late) = (Arc::clone(&gate), answers.clone(), answers.clone());
            workers.run(
                move || {
                    let _ = gate.lock().unwrap().recv();
                    done.send((number, "done")).unwrap();
                },
                move || late.send((number, "late")).unwrap(),
            );
        }
        let (done, late) = (answers.clone(), answers);
        workers.run(
            move || done.send((99, "done")).unwrap(),
            move || late.send((99, "late")).unwrap(),
        );
        assert_eq!(answered.recv().unwrap(), (99, "done"));
        for number in 0..THREADS - 1 {
            assert_eq!(answered.recv().unwrap(), (number, "late"));
        }
        drop(free);
        for _ in 0..THREADS - 1 {
            assert_eq!(answered.recv().unwrap().1, "done");
        }
        let more = answered.recv_timeout(Duration::from_millis(300));
        assert_eq!(more, Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn when_all_hang_it_is_told() {
        let (tell, told) = mpsc::channel();
        let workers = Workers::new(Duration::from_millis(100), move || tell.send(()).unwrap());
        let (free, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..THREADS {
            assert!(told.try_recv().is_err());
            let gate = Arc::clone(&gate);
            workers.run(
                move || {
                    let _ = gate.lock().unwrap().recv();
                },
                || {},
            );
        }
        told.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(free);
    }
}
