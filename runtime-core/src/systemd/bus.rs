//! A connection to systemd's own socket: the one that systemctl uses as root. It needs no bus daemon, and job signals come
//! unasked (systemd, src/core/dbus.c: `bus_foreach_bus`). It lasts for one operation; every wait on it has a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::wire::{self, FIXED, Message, Writer};

/// Where it is.
pub(super) const SOCKET: &str = "/run/systemd/private";

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// systemd refuses it: the error's name and its text.
    Refused(String, String),
    /// There is no systemd at the other end (any more), or it does not answer: it may be executing itself anew.
    Gone(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Gone(error)
    }
}

/// The connection.
pub(super) struct Bus {
    socket: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Jobs that have ended, and how.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects and authenticates.
    pub(super) fn connect(deadline: Instant) -> io::Result<Bus> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // EAGAIN where nobody accepts: the queue is full.
        connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(false)?;
        let mut bus = Bus {
            socket,
            deadline,
            serial: 0,
            ended: Vec::new(),
        };
        // "Authentication Protocol": the uid in decimal digits, these in hexadecimal.
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.send(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let answer = bus.line()?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::other(format!("{SOCKET} answers {answer:?}")));
        }
        bus.send(b"BEGIN\r\n")?;
        Ok(bus)
    }

    /// Calls a method of the manager; the texts of its answer.
    pub(super) fn call(
        &mut self,
        member: &str,
        signature: &str,
        body: Writer,
    ) -> Result<Vec<String>, Failure> {
        self.serial += 1;
        self.send(&wire::call(self.serial, member, signature, body))?;
        loop {
            let message = self.receive()?;
            if message.reply_to == Some(self.serial) {
                if !message.is_error {
                    return Ok(message.texts);
                }
                let text = message.texts.into_iter().next().unwrap_or_default();
                return Err(Failure::Refused(message.error.unwrap_or_default(), text));
            }
        }
    }

    /// Waits for the end of `job`: `done`, `failed`, `canceled` and the like (org.freedesktop.systemd1(5), JobRemoved).
    pub(super) fn result_of(&mut self, job: &str) -> Result<String, Failure> {
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                return Ok(result.clone());
            }
            self.receive()?;
        }
    }

    /// The next message; ends of jobs are noted.
    fn receive(&mut self) -> io::Result<Message> {
        let malformed = || io::Error::new(ErrorKind::InvalidData, "a malformed message");
        let mut bytes = vec![0; FIXED];
        self.fill(&mut bytes)?;
        let fixed: &[u8; FIXED] = bytes.first_chunk().ok_or_else(malformed)?;
        let rest = wire::rest(fixed).ok_or_else(malformed)?;
        bytes.resize(FIXED + rest, 0);
        self.fill(bytes.get_mut(FIXED..).unwrap_or_default())?;
        let message = wire::message(&bytes).ok_or_else(malformed)?;
        if message.member.as_deref() == Some("JobRemoved")
            && let [job, _, result] = &message.texts[..]
        {
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(message)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }

    fn fill(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.socket.set_read_timeout(self.left()?)?;
            match self.socket.read(bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => bytes = bytes.get_mut(read..).unwrap_or_default(),
                // The deadline says whether that was all.
                Err(error) if patient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(self.left()?)?;
            match self.socket.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if patient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn patient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
    )
}
