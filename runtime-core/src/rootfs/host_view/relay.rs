//! Between the kernel and the process that serves a view.
//!
//! ```text
//!   engine ─► kernel ─ /dev/fuse ─► relay, in the shim ─ socket ─► the server, a process of its own
//! ```
//! The relay touches no file of the container's and waits for nothing that the container controls. It starts a server when the
//! first request comes, so who never looks pays for none, and passes requests and answers on. It answers the kernel itself
//! where the server does not in time, or has ended; such a server is killed, and the next request has another started. Until a
//! killed one has died, which the container may hold up, its place is taken.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair,
    sockopt::set_socket_send_buffer_size_force,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::nodes::ROOT;
use super::place::Place;
use super::wire::{self, Answer, MAX_MESSAGE, Request, opcode};
use crate::error::{Error, OsContext, Result};
use crate::kernel::reap::{reap, reap_before, send_signal};

/// How long a server has for one request. It gives up by itself a little earlier.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long a killed server may take to end when the view does: the container is dead by then.
const END: Duration = Duration::from_secs(2);
/// Most servers that have been killed and have not died.
const MOST_DYING: usize = 3;
/// Room for a message in each direction of a socket, with what the kernel adds.
const ROOM: usize = 2 * MAX_MESSAGE;

/// Starts a server: it reads requests from the socket, and gives files numbers above the second argument. Returns its pidfd
/// once it is ready.
pub(crate) type Start = Box<dyn FnMut(OwnedFd, u64) -> Result<OwnedFd> + Send>;

/// The thread that passes on.
#[derive(Debug)]
pub(super) struct Relaying {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Relaying {
    /// Passes on what comes from `device`.
    pub(super) fn start(device: OwnedFd, place: Arc<Place>, start: Start) -> Result<Relaying> {
        let pose = move |thread| {
            if !is_engine(thread) {
                return false;
            }
            let posed = place.pose();
            if let Err(error) = &posed {
                let error = error.chain();
                tracing::warn!(error, "an engine asks for the type of a view");
            }
            posed.is_ok()
        };
        Relaying::of(Relay::new(device, Box::new(pose), start, PATIENCE)?)
    }

    fn of(relay: Relay) -> Result<Relaying> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).os("pipe", "relay")?;
        let thread = std::thread::Builder::new()
            .name("view".into())
            .spawn(move || {
                if let Err(error) = relay.run(&stopped) {
                    tracing::error!(error = error.chain(), "view of a root file system");
                }
            })
            .os("start thread", "view")?;
        Ok(Relaying { stop, thread })
    }

    /// Ends it and the server, and returns when they have ended.
    pub(super) fn stop(self) {
        drop(self.stop);
        // It reports its own end.
        let _ = self.thread.join();
    }
}

/// Whether thread `tid` is dockerd's, also when its file has been replaced by another version.
fn is_engine(tid: u32) -> bool {
    let exe = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
    let name = exe.file_name().map(OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.starts_with(b"dockerd"))
}

struct Relay {
    device: OwnedFd,
    /// Asked when thread so and so asks for the type of the view; true: it should look again.
    pose: Box<dyn Fn(u32) -> bool + Send>,
    start: Start,
    patience: Duration,
    /// The kernel's first request, which every server wants to see.
    hello: Vec<u8>,
    server: Option<Server>,
    /// How many have been started.
    started: u64,
    /// Killed.
    dying: Vec<OwnedFd>,
    /// A request for which there was no room in the socket; no other is read meanwhile.
    held: Option<Held>,
}

struct Server {
    socket: OwnedFd,
    pidfd: OwnedFd,
    /// What it has not answered, with deadlines; the oldest first.
    waiting: VecDeque<(u64, Instant)>,
}

struct Held {
    message: Vec<u8>,
    /// None: nobody waits for an answer.
    unique: Option<u64>,
    deadline: Instant,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    stop: bool,
    request: bool,
    room: bool,
    answer: bool,
}

impl Relay {
    fn new(
        device: OwnedFd,
        pose: Box<dyn Fn(u32) -> bool + Send>,
        start: Start,
        patience: Duration,
    ) -> Result<Relay> {
        never_wait(&device)?;
        Ok(Relay {
            device,
            pose,
            start,
            patience,
            hello: Vec::new(),
            server: None,
            started: 0,
            dying: Vec::new(),
            held: None,
        })
    }

    /// Until the view is unmounted, or the other end of `stopped` is closed.
    fn run(mut self, stopped: &OwnedFd) -> Result<()> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let ready = self.wait(stopped)?;
            if ready.stop {
                break;
            }
            self.bury();
            if ready.answer {
                self.answers(&mut buffer);
            }
            self.overdue();
            if (ready.room || self.server.is_none())
                && let Some(held) = self.held.take()
            {
                self.pass(&held.message, held.unique);
            }
            if ready.request && !self.request(&mut buffer)? {
                break;
            }
        }
        self.lose(Errno::CONNABORTED);
        let deadline = Instant::now() + END;
        for pidfd in &self.dying {
            if let Ok(None) = reap_before(pidfd, deadline) {
                tracing::warn!("the server of a view does not die");
            }
        }
        Ok(())
    }

    /// Waits for something to do, or the first deadline.
    fn wait(&self, stopped: &OwnedFd) -> Result<Ready> {
        let mut fds = vec![PollFd::new(stopped, PollFlags::IN)];
        if self.held.is_none() {
            fds.push(PollFd::new(&self.device, PollFlags::IN));
        }
        if let Some(server) = &self.server {
            let room = match self.held {
                Some(_) => PollFlags::OUT,
                None => PollFlags::empty(),
            };
            fds.push(PollFd::new(&server.socket, PollFlags::IN | room));
        }
        fds.extend(
            self.dying
                .iter()
                .map(|pidfd| PollFd::new(pidfd, PollFlags::IN)),
        );
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: poll(2) may come back a little early.
            Timespec::try_from(left + Duration::from_millis(1))
        });
        let timeout = timeout
            .transpose()
            .map_err(std::io::Error::other)
            .os("poll", "view")?;
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Ready::default()),
            polled => polled.os("poll", "view")?,
        };
        let mut ready = fds.iter().map(PollFd::revents);
        let mut next = |asked: bool| match asked {
            true => ready.next().unwrap_or(PollFlags::empty()),
            false => PollFlags::empty(),
        };
        let (stop, request) = (next(true), next(self.held.is_none()));
        let socket = next(self.server.is_some());
        Ok(Ready {
            stop: !stop.is_empty(),
            request: !request.is_empty(),
            room: socket.contains(PollFlags::OUT),
            answer: socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
        })
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self
            .server
            .as_ref()
            .and_then(|server| server.waiting.front());
        let held = self.held.as_ref().map(|held| held.deadline);
        waiting
            .map(|(_, deadline)| *deadline)
            .into_iter()
            .chain(held)
            .min()
    }

    /// Takes one request of the kernel's. False: it is the end of the view.
    fn request(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let length = match rustix::io::read(&self.device, &mut *buffer) {
            // Taken back, before it was read.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => return Ok(true),
            Ok(0) | Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(false),
            read => read.os("read", "/dev/fuse")?,
        };
        let message = buffer.get(..length).unwrap_or_default();
        let Some(Request {
            opcode,
            unique,
            node,
            thread,
        }) = Request::head(message)
        else {
            return Ok(true);
        };
        match opcode {
            opcode::INIT => {
                self.hello = message.to_vec();
                if let Some(answer) = wire::init_answer(unique, message) {
                    self.tell(&answer);
                }
            }
            // Operations end by themselves, or at their deadline.
            opcode::INTERRUPT => {}
            opcode::FORGET | opcode::BATCH_FORGET => self.pass(message, None),
            opcode::STATFS if node == ROOT && (self.pose)(thread) => {
                self.fail(unique, Errno::STALE)
            }
            _ => self.pass(message, Some(unique)),
        }
        Ok(true)
    }

    /// Passes a request on, to a new server where there is none. `unique` is that of a request that wants an answer.
    fn pass(&mut self, message: &[u8], unique: Option<u64>) {
        // A second server, where the first one is found dead.
        for _ in 0..2 {
            // What it knew it has forgotten.
            if self.server.is_none() && unique.is_none() {
                return;
            }
            if let Err(error) = self.serve() {
                let error = error.chain();
                tracing::warn!(error, "nobody serves a view");
                break;
            }
            let Some(server) = &mut self.server else {
                break;
            };
            let deadline = Instant::now() + self.patience;
            match send_all(&server.socket, message) {
                Ok(()) => {
                    server
                        .waiting
                        .extend(unique.map(|unique| (unique, deadline)));
                    return;
                }
                Err(Errno::AGAIN) => {
                    let message = message.to_vec();
                    self.held = Some(Held {
                        message,
                        unique,
                        deadline,
                    });
                    return;
                }
                Err(_) => self.lose(Errno::CONNABORTED),
            }
        }
        if let Some(unique) = unique {
            self.fail(unique, Errno::IO);
        }
    }

    /// Starts a server where there is none.
    fn serve(&mut self) -> Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        self.bury();
        if self.dying.len() >= MOST_DYING {
            return Err(Error::WrongState {
                verb: "start another server",
                state: format!(
                    "{MOST_DYING} have been killed, and the container keeps them from dying"
                ),
            });
        }
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .os("socketpair", "view")?;
        for end in [&ours, &theirs] {
            // Where only the host's root may, as in tests, what the kernel gives is enough.
            let _ = set_socket_send_buffer_size_force(end, ROOM);
        }
        never_wait(&ours)?;
        self.started += 1;
        // Numbers that the kernel has from one before mean nothing, never something else.
        let pidfd = (self.start)(theirs, self.started << 32)?;
        self.server = Some(Server {
            socket: ours,
            pidfd,
            waiting: VecDeque::new(),
        });
        // The kernel has got its answer: that of the server goes nowhere.
        if let Some(server) = &self.server {
            send_all(&server.socket, &self.hello).os("send", "first request")?;
        }
        Ok(())
    }

    /// Passes answers on.
    fn answers(&mut self, buffer: &mut [u8]) {
        while let Some(server) = &mut self.server {
            let length = match rustix::io::read(&server.socket, &mut *buffer) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => return self.lose(Errno::CONNABORTED),
                Ok(length) => length,
            };
            let message = buffer.get(..length).unwrap_or_default();
            // One that comes late, or is none.
            let Some(Answer { unique, error }) = Answer::head(message) else {
                continue;
            };
            let Some(index) = server
                .waiting
                .iter()
                .position(|(known, _)| *known == unique)
            else {
                continue;
            };
            server.waiting.remove(index);
            if error == -Errno::TIMEDOUT.raw_os_error() {
                tracing::warn!("an operation on a view hangs: the container holds what it needs");
            }
            if !self.tell(message) {
                self.fail(unique, Errno::IO);
            }
        }
    }

    /// Gives up a server that has let a deadline pass.
    fn overdue(&mut self) {
        if self
            .deadline()
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            tracing::warn!("the server of a view does not answer, and is killed");
            self.lose(Errno::TIMEDOUT);
        }
    }

    /// Kills the server; who waits for an answer of it gets `errno`.
    fn lose(&mut self, errno: Errno) {
        let Some(server) = self.server.take() else {
            return;
        };
        for (unique, _) in &server.waiting {
            self.fail(*unique, errno);
        }
        // Died already: nothing to kill.
        let _ = send_signal(&server.pidfd, libc::SIGKILL);
        self.dying.push(server.pidfd);
    }

    /// Collects those that have died.
    fn bury(&mut self) {
        self.dying.retain(|pidfd| matches!(reap(pidfd), Ok(None)));
    }

    fn fail(&self, unique: u64, errno: Errno) {
        self.tell(&wire::failure(unique, errno));
    }

    /// Gives the kernel an answer. False: it does not take it for one.
    fn tell(&self, answer: &[u8]) -> bool {
        loop {
            match rustix::io::write(&self.device, answer) {
                Err(Errno::INTR) => {}
                // Nobody waits for it any more.
                Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => return true,
                Err(_) => return false,
            }
        }
    }
}

fn never_wait(fd: impl AsFd) -> Result<()> {
    fcntl_getfl(&fd)
        .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .os("fcntl", "O_NONBLOCK")
}

/// Sends a message; the kernel takes it as a whole.
fn send_all(socket: &OwnedFd, message: &[u8]) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| send(socket, message, SendFlags::NOSIGNAL)).map(drop)
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
