//! Streams between real fifos, files, terminals and processes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio as ChildStdio};

use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcgetwinsize;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::*;
use crate::places::Places;
use crate::reap;

const OWNER: Owner<'static> = Owner {
    id: "c1",
    namespace: "ns",
    ids: None,
    away: None,
};

struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Client {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out", "err"] {
            mknodat(CWD, dir.path().join(name), FileType::Fifo, 0o600.into(), 0).unwrap();
        }
        Client { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn streams(&self, terminal: bool) -> Streams {
        Streams {
            stdin: self.path("in"),
            stdout: self.path("out"),
            stderr: if terminal {
                String::new()
            } else {
                self.path("err")
            },
            terminal,
        }
    }

    /// The client's ends, as containerd's clients open them: without waiting.
    fn reader(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(self.path(name)).unwrap();
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).unwrap();
        file
    }

    fn writer(&self, name: &str) -> File {
        let path: PathBuf = self.path(name).into();
        OpenOptions::new().write(true).open(path).unwrap()
    }
}

/// Runs a shell script with the process's ends of the streams.
#[expect(clippy::zombie_processes, reason = "reaped by its pidfd")]
fn spawn(script: &str, stdio: Stdio) -> OwnedFd {
    let stream = |fd: Option<OwnedFd>| fd.map_or_else(ChildStdio::null, ChildStdio::from);
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(stream(stdio.stdin))
        .stdout(stream(stdio.stdout))
        .stderr(stream(stdio.stderr))
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

async fn read_all(mut file: File) -> String {
    let reading = spawn_blocking(move || {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    });
    timeout(Duration::from_secs(10), reading)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn input_is_opened_when_the_process_starts() {
    let client = Client::new();
    let (_process, io) = Io::open(&client.streams(false), OWNER).await.unwrap();
    let write = || {
        let mut options = OpenOptions::new();
        let options = options
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        options.open(client.path("in"))
    };
    // A client that could write now might be at the end of its input before it knows the process that it must tell so.
    let refused = write().unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::NXIO.raw_os_error())
    );
    io.start_input(false).unwrap();
    io.start_input(false).unwrap();
    write().unwrap();
}

#[tokio::test]
async fn an_end_of_input_said_before_the_start_holds() {
    let client = Client::new();
    let (process, io) = Io::open(&client.streams(false), OWNER).await.unwrap();
    let exit = tokio::spawn(reap::exit(spawn("cat", process)));
    io.start_input(true).unwrap();
    let exit = timeout(Duration::from_secs(10), exit).await.unwrap();
    assert_eq!(exit.unwrap().status, 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_no_end_of_input_until_close_io() {
    let client = Client::new();
    let (stdout, stderr) = (client.reader("out"), client.reader("err"));
    let (process, io) = Io::open(&client.streams(false), OWNER).await.unwrap();
    let exit = tokio::spawn(reap::exit(spawn("cat; echo done >&2; exit 3", process)));
    io.start_input(false).unwrap();
    let mut stdin = client.writer("in");
    stdin.write_all(b"first ").unwrap();
    drop(stdin);
    sleep(Duration::from_millis(100)).await;
    assert!(!exit.is_finished(), "another client may attach");
    let mut stdin = client.writer("in");
    stdin.write_all(b"second").unwrap();
    io.close_stdin();
    io.close_stdin();
    sleep(Duration::from_millis(100)).await;
    assert!(!exit.is_finished(), "the client still writes");
    drop(stdin);
    assert_eq!(exit.await.unwrap().status, 3);
    io.process_exited();
    io.drain().await;
    assert_eq!(read_all(stdout).await, "first second");
    assert_eq!(read_all(stderr).await, "done\n");
}

#[tokio::test]
async fn a_process_writes_on_while_nobody_reads() {
    let client = Client::new();
    let (process, io) = Io::open(&client.streams(false), OWNER).await.unwrap();
    let script = "for i in 1 2 3; do echo $i || exit 1; sleep 0.1; done";
    let exit = tokio::spawn(reap::exit(spawn(script, process)));
    sleep(Duration::from_millis(150)).await;
    let stdout = client.reader("out"); // Only now.
    assert_eq!(exit.await.unwrap().status, 0, "SIGPIPE would be 141");
    io.process_exited();
    io.drain().await;
    assert_eq!(read_all(stdout).await, "1\n2\n3\n");
}

/// How many fifos of the client this process has open.
fn fifos(client: &Client) -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| path.starts_with(client.dir.path()))
        .count()
}

#[tokio::test]
async fn output_that_nobody_comes_back_for_is_let_go() {
    let owner = Owner {
        away: Some(Duration::from_millis(100)),
        ..OWNER
    };
    // More than a fifo and a pipe hold.
    let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2";
    let client = Client::new();
    let stdout = client.reader("out");
    let (process, io) = Io::open(&client.streams(false), owner).await.unwrap();
    let exit = tokio::spawn(reap::exit(spawn(script, process)));
    sleep(Duration::from_millis(300)).await;
    assert!(!exit.is_finished(), "it waits while nobody reads");
    io.process_exited();
    // Whoever reads late, but is there, misses nothing.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(read_all(stdout).await.len(), 300_000);
    // Nobody reads the other one.
    timeout(Duration::from_secs(10), exit)
        .await
        .unwrap()
        .unwrap();
    for _ in 0..100 {
        if fifos(&client) == 0 {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{} fifos are open", fifos(&client));
}

#[tokio::test]
async fn the_end_of_a_process_ends_its_input() {
    let client = Client::new();
    let (process, io) = Io::open(&client.streams(false), OWNER).await.unwrap();
    assert_eq!(reap::exit(spawn("exit 0", process)).await.status, 0);
    io.process_exited();
    let opened = || {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        rustix::fs::open(client.path("in"), flags, Mode::empty())
    };
    for _ in 0..100 {
        if opened().is_err() {
            return; // ENXIO: nobody reads it.
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the fifo is still being read");
}

#[tokio::test]
async fn a_file_takes_both_streams_and_appends() {
    let client = Client::new();
    let path = client.dir.path().join("logs/of c1");
    let uri = format!("file://{}/logs/of%20c1", client.dir.path().display());
    for round in 0..2 {
        let streams = Streams {
            stdout: uri.clone(),
            stderr: uri.clone(),
            ..Streams::default()
        };
        let (process, io) = Io::open(&streams, OWNER).await.unwrap();
        let script = format!("echo out{round}; sleep 0.05; echo err{round} >&2");
        reap::exit(spawn(&script, process)).await;
        io.process_exited();
        io.drain().await;
    }
    assert_eq!(
        fs::read_to_string(path).unwrap(),
        "out0\nerr0\nout1\nerr1\n"
    );
}

#[tokio::test]
async fn no_streams_no_descriptors() {
    let (process, _io) = Io::open(&Streams::default(), OWNER).await.unwrap();
    assert!(process.stdin.is_none() && process.stdout.is_none() && process.stderr.is_none());
}

#[tokio::test]
async fn a_terminal_both_ways_until_its_process_is_gone() {
    let client = Client::new();
    let stdout = client.reader("out");
    let (process, io) = Io::open(&client.streams(true), OWNER).await.unwrap();
    assert!(
        process.stdout.is_none(),
        "the terminal is all three streams"
    );
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let terminal = Terminal::new(master, Places::new("c1"));
    io.attach(terminal.clone()).unwrap();
    io.start_input(false).unwrap();
    terminal.resize(132, 43).unwrap();
    let size = tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (132, 43));

    rustix::io::write(&slave, b"before\n").unwrap();
    drop(slave); // As systemd does: no hang-up while the process lives.
    sleep(Duration::from_millis(50)).await;
    let peer = terminal.peer();
    client.writer("in").write_all(b"typed\n").unwrap();
    let mut line = [0; 64];
    let (n, peer) = spawn_blocking(move || (rustix::io::read(&peer, &mut line).unwrap(), peer))
        .await
        .unwrap();
    assert_eq!(n, "typed\n".len());
    rustix::io::write(&peer, b"after\n").unwrap();
    io.process_exited();
    // `peer` is open: some process in the container still has the terminal.
    timeout(Duration::from_secs(5), io.drain()).await.unwrap();
    let text = read_all(stdout).await;
    assert_eq!(
        text, "before\r\ntyped\r\nafter\r\n",
        "with the terminal's echo"
    );
    drop(peer);
}
