//! Copying between descriptors that epoll can wait for: pipes, fifos and terminals. A stream takes one small buffer,
//! however much goes through it.

use std::fs::File;
use std::future::{Future, pending};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::terminal::End;
use crate::epoll;

const BUFFER: usize = 8 << 10;

/// A non-blocking descriptor.
pub(super) type Fd = AsyncFd<End>;

/// Makes the open file description non-blocking and registers it.
pub(super) fn nonblocking(fd: impl Into<End>) -> io::Result<Fd> {
    let fd = fd.into();
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    epoll::register(fd, Interest::READABLE | Interest::WRITABLE)
}

/// A client's fifo, of which we hold both ends: its process goes on writing while the client is away.
#[derive(Debug)]
pub(super) struct Fifo {
    fd: Fd,
    /// For how long after the process's end, if it is known that no client comes back later.
    orphan: Option<Orphan>,
}

/// When nobody comes back to read what a process has written.
#[derive(Debug)]
pub(super) struct Orphan {
    /// Whether the process has exited.
    pub(super) exited: watch::Receiver<bool>,
    /// How long after that.
    pub(super) grace: Duration,
}

impl Fifo {
    /// One that is open for both.
    pub(super) fn new(fd: OwnedFd, orphan: Option<Orphan>) -> io::Result<Fifo> {
        let fd = nonblocking(fd)?;
        Ok(Fifo { fd, orphan })
    }

    /// Writes all of `data`.
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let written = tokio::select! {
                biased;
                written = write_some(&self.fd, rest) => written,
                () = is_orphan(&mut self.orphan) => {
                    self.let_go()?;
                    Ok(0)
                }
            };
            rest = &rest[written.map_err(nobody_reads)?..];
        }
        Ok(())
    }

    /// From here on we are no reader: without another one a write fails (pipe(7)). What is in it stays as long as we write.
    fn let_go(&mut self) -> io::Result<()> {
        self.orphan = None;
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let itself = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        self.fd = nonblocking(rustix::fs::open(itself, flags, Mode::empty())?)?;
        Ok(())
    }
}

/// Ready once, when the process has been gone for the grace.
async fn is_orphan(orphan: &mut Option<Orphan>) {
    let Some(Orphan { exited, grace }) = orphan else {
        return pending().await;
    };
    if exited.wait_for(|exited| *exited).await.is_err() {
        // The streams are being dropped.
        return pending().await;
    }
    sleep(*grace).await;
}

fn nobody_reads(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::other("nobody reads it any more"),
        _ => error,
    }
}

async fn write_some(fd: &Fd, data: &[u8]) -> io::Result<usize> {
    fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, data)?))
        .await
}

/// Where a copy ends up.
#[derive(Debug)]
pub(super) enum Sink {
    /// Pipe or terminal.
    Fd(Fd),
    /// A client's.
    Fifo(Fifo),
    /// Regular file: cannot be waited for, so written by a thread of the pool.
    File(File),
    /// Nowhere: what the process writes is read and dropped.
    Null,
}

impl Sink {
    /// Writes all of `data` and gives the buffer back.
    async fn write(&mut self, data: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Sink::Fd(fd) => {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let n = write_some(fd, rest).await?;
                    rest = &rest[n..];
                }
                Ok(data)
            }
            Sink::Fifo(fifo) => fifo.write(&data).await.map(|()| data),
            Sink::File(file) => {
                let mut file = file.try_clone()?;
                spawn_blocking(move || file.write_all(&data).map(|()| data)).await?
            }
            Sink::Null => Ok(data),
        }
    }
}

/// Copies until the source ends. When `gone` is ready, the source ends as soon as nothing more can be read at once: a
/// terminal stays open as long as any process has it, but its output belongs to the one that was asked for.
///
/// An error of the sink (a full disk) is reported once, and the rest of the output is dropped: the process must not be
/// stopped by its log.
pub(super) async fn copy(from: Fd, mut to: Sink, gone: impl Future<Output = ()>, stream: &str) {
    tokio::pin!(gone);
    let mut is_gone = false;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            read = read(&from, &mut buffer), if !is_gone => read,
            () = &mut gone, if !is_gone => {
                is_gone = true;
                continue;
            }
            else => drain(&from, &mut buffer),
        };
        match read {
            // EIO: the last process closed the terminal (pty(7)).
            Ok(0) => return,
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return,
            Err(error) => {
                tracing::warn!(stream, %error, "reading failed");
                return;
            }
            Ok(n) => {
                buffer.truncate(n);
                match to.write(buffer).await {
                    Ok(written) => buffer = written,
                    Err(error) => {
                        tracing::warn!(stream, %error, "writing failed; output is dropped from here on");
                        to = Sink::Null;
                        buffer = Vec::new();
                    }
                }
                buffer.resize(BUFFER, 0);
            }
        }
    }
}

async fn read(from: &Fd, buffer: &mut [u8]) -> io::Result<usize> {
    from.async_io(Interest::READABLE, |fd| {
        Ok(rustix::io::read(fd, &mut *buffer)?)
    })
    .await
}

/// What can be read at once; nothing is the end.
fn drain(from: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(from, buffer) {
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        read => Ok(read?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::Read;
    use tokio::time::timeout;

    #[tokio::test]
    async fn everything_arrives_in_order() {
        let (source_read, source_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (sink_read, sink_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let copying = copy(
            nonblocking(source_read).unwrap(),
            Sink::Fd(nonblocking(sink_write).unwrap()),
            pending(),
            "stdout",
        );
        let writer = spawn_blocking(move || {
            let mut file = File::from(source_write);
            for n in 0u32..1_000_000 {
                file.write_all(&n.to_le_bytes()).unwrap();
            }
        });
        let reader = spawn_blocking(move || {
            let mut all = Vec::new();
            File::from(sink_read).read_to_end(&mut all).unwrap();
            all
        });
        copying.await;
        writer.await.unwrap();
        let all = reader.await.unwrap();
        assert_eq!(all.len(), 4_000_000);
        assert!(
            (0u32..)
                .zip(all.chunks(4))
                .all(|(n, four)| four == n.to_le_bytes())
        );
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_does_not_stop_the_process() {
        let (source_read, source_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (sink_read, sink_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(sink_read);
        let copying = copy(
            nonblocking(source_read).unwrap(),
            Sink::Fd(nonblocking(sink_write).unwrap()),
            pending(),
            "stdout",
        );
        let writer =
            spawn_blocking(move || File::from(source_write).write_all(&[0; 300_000]).unwrap());
        timeout(Duration::from_secs(5), copying).await.unwrap();
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn once_the_process_is_gone_what_is_there_is_all() {
        let (source_read, source_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (sink_read, sink_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&source_write, b"last words").unwrap();
        let copying = copy(
            nonblocking(source_read).unwrap(),
            Sink::Fd(nonblocking(sink_write).unwrap()),
            std::future::ready(()),
            "stdout",
        );
        timeout(Duration::from_secs(5), copying).await.unwrap();
        let mut all = String::new();
        File::from(sink_read).read_to_string(&mut all).unwrap();
        assert_eq!(all, "last words");
        drop(source_write); // Open all the while.
    }
}
