//! The relay between a kernel and servers that the test plays.

use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;
use crate::kernel::reap::readable_before;

const LOOKUP: u32 = 1;
const MOMENT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

/// A server as the relay has started it.
struct Played {
    socket: OwnedFd,
    last: u64,
}

struct Bed {
    kernel: OwnedFd,
    servers: Receiver<Played>,
    relaying: Option<Relaying>,
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

#[expect(clippy::zombie_processes, reason = "reaped by its pidfd")]
fn process() -> OwnedFd {
    let child = Command::new("/bin/sleep").arg("100").spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

fn ask(kernel: &OwnedFd, opcode: u32, unique: u64, thread: u32, length: usize) {
    let mut message = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
    message.extend(opcode.to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend(ROOT.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(thread.to_ne_bytes());
    message.resize(length, 0);
    send_all(kernel, &message).unwrap();
}

fn bed() -> Bed {
    let (kernel, device) = pair();
    let (tell, servers): (Sender<Played>, _) = mpsc::channel();
    let start: Start = Box::new(move |socket, last| {
        tell.send(Played { socket, last }).unwrap();
        Ok(process())
    });
    let pose = Box::new(|thread| thread == 77);
    let relay = Relay::new(device, pose, start, MOMENT).unwrap();
    let relaying = Some(Relaying::of(relay).unwrap());
    let bed = Bed {
        kernel,
        servers,
        relaying,
    };
    bed.ask(opcode::INIT, 1);
    assert_eq!(bed.answer(), (1, 0));
    bed
}

impl Bed {
    fn ask(&self, opcode: u32, unique: u64) {
        self.ask_of(opcode, unique, 0);
    }

    fn ask_of(&self, opcode: u32, unique: u64, thread: u32) {
        ask(&self.kernel, opcode, unique, thread, 104);
    }

    /// Whose answer comes, and its error.
    fn answer(&self) -> (u64, i32) {
        let message = receive(&self.kernel);
        let Answer { unique, error } = Answer::head(&message).unwrap();
        (unique, -error)
    }

    fn server(&self) -> Played {
        let server = self.servers.recv_timeout(LONG).unwrap();
        assert_eq!(server.asked().opcode, opcode::INIT);
        server
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.relaying.take().unwrap().stop();
    }
}

impl Played {
    fn asked(&self) -> Request {
        Request::head(&receive(&self.socket)).unwrap()
    }

    fn answer(&self, unique: u64, errno: Errno) {
        send_all(&self.socket, &wire::failure(unique, errno)).unwrap();
    }
}

fn thread(act: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().spawn(act).unwrap()
}

fn receive(socket: &OwnedFd) -> Vec<u8> {
    assert!(readable_before(socket, Instant::now() + LONG).unwrap());
    let mut buffer = vec![0; MAX_MESSAGE];
    let length = rustix::io::read(socket, &mut *buffer).unwrap();
    buffer.truncate(length);
    buffer
}

#[test]
fn the_first_request_starts_a_server_and_others_go_to_it() {
    let bed = bed();
    bed.ask(opcode::FORGET, 2);
    bed.ask_of(opcode::STATFS, 3, 77);
    assert_eq!(bed.answer(), (3, libc::ESTALE));
    assert!(bed.servers.try_recv().is_err(), "nobody has looked yet");
    bed.ask(LOOKUP, 4);
    let server = bed.server();
    assert_eq!(server.asked().unique, 4);
    bed.ask(opcode::FORGET, 5);
    bed.ask_of(opcode::STATFS, 6, 1);
    assert_eq!(server.asked().opcode, opcode::FORGET);
    assert_eq!(server.asked().opcode, opcode::STATFS);
    server.answer(6, Errno::NOSYS);
    server.answer(99, Errno::PERM);
    server.answer(4, Errno::ACCESS);
    assert_eq!(bed.answer(), (6, libc::ENOSYS));
    assert_eq!(bed.answer(), (4, libc::EACCES));
}

#[test]
fn one_that_does_not_answer_is_replaced() {
    let bed = bed();
    bed.ask(LOOKUP, 2);
    let first = bed.server();
    assert_eq!(first.asked().unique, 2);
    assert_eq!(bed.answer(), (2, libc::ETIMEDOUT));
    bed.ask(LOOKUP, 3);
    let second = bed.server();
    assert!(second.last > first.last);
    assert_eq!(second.asked().unique, 3);
    second.answer(3, Errno::NOENT);
    assert_eq!(bed.answer(), (3, libc::ENOENT));
}

#[test]
fn one_that_ends_is_replaced() {
    let bed = bed();
    bed.ask(LOOKUP, 2);
    let first = bed.server();
    assert_eq!(first.asked().unique, 2);
    drop(first);
    assert_eq!(bed.answer(), (2, libc::ECONNABORTED));
    bed.ask(LOOKUP, 3);
    assert_eq!(bed.server().asked().unique, 3);
}

#[test]
fn what_a_stopped_one_has_no_room_for_goes_to_the_next() {
    const REQUESTS: std::ops::Range<u64> = 2..42;
    let mut bed = bed();
    let kernel = bed.kernel.try_clone().unwrap();
    let asking = thread(move || {
        for unique in REQUESTS {
            ask(&kernel, LOOKUP, unique, 0, 100_000);
        }
    });
    let first = bed.server();
    let servers = std::mem::replace(&mut bed.servers, mpsc::channel().1);
    let second = thread(move || {
        let second = servers.recv_timeout(LONG).unwrap();
        assert_eq!(second.asked().opcode, opcode::INIT);
        loop {
            let unique = second.asked().unique;
            second.answer(unique, Errno::NOENT);
            if unique == REQUESTS.end - 1 {
                break;
            }
        }
    });
    let answers: Vec<_> = REQUESTS.map(|_| bed.answer()).collect();
    assert!(answers.iter().map(|(unique, _)| *unique).eq(REQUESTS));
    assert_eq!(answers[0].1, libc::ETIMEDOUT);
    assert_eq!(answers[answers.len() - 1].1, libc::ENOENT);
    asking.join().unwrap();
    second.join().unwrap();
    drop(first);
}

#[test]
fn where_none_can_be_started_there_is_an_error() {
    let (kernel, device) = pair();
    let start: Start = Box::new(|_, _| Err(Error::NotFound("server".into())));
    let relay = Relay::new(device, Box::new(|_| false), start, MOMENT).unwrap();
    let bed = Bed {
        kernel,
        servers: mpsc::channel().1,
        relaying: Some(Relaying::of(relay).unwrap()),
    };
    bed.ask(LOOKUP, 2);
    assert_eq!(bed.answer(), (2, libc::EIO));
}
