//! The real binary, driven as containerd drives it, as far as that needs neither root nor a container.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteResponse, ShutdownRequest, StateRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use tempfile::TempDir;
use tokio::time::timeout;
use ttrpc::{Code, context};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-sysbox-v2");

/// A bundle, and a directory for the sockets of its shims.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let bed = Bed { dir };
        bed.bundle("c1", "{}");
        bed
    }

    fn bundle(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.dir.path().join(id);
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    /// Runs a command of the shim in a bundle, with these bytes on stdin.
    fn run(&self, id: &str, command: &str, stdin: &[u8]) -> Output {
        let mut child: Child = Command::new(SHIM)
            .args([
                "-namespace",
                "ns",
                "-address",
                "/none",
                "-publish-binary",
                "/none",
                "-id",
                id,
                command,
            ])
            .env("TTRPC_ADDRESS", self.dir.path().join("none"))
            .current_dir(self.dir.path().join(id))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "the reaper is the shim's; this is a test's own child"
        )]
        child.wait_with_output().unwrap()
    }

    /// `start` as containerd 2.3 does it; the socket is where the bed says.
    fn start(&self, id: &str) -> Shim {
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "ns".into(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            ..BootstrapParams::default()
        };
        let output = self.run(id, "start", &params.write_to_bytes().unwrap());
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "",
            "containerd reads stderr, too"
        );
        assert!(output.status.success());
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        let noted = fs::read_to_string(self.dir.path().join(id).join("address")).unwrap();
        assert_eq!(noted, result.address);
        Shim {
            address: result.address,
        }
    }
}

struct Shim {
    address: String,
}

impl Shim {
    fn socket(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix://").unwrap())
    }

    async fn connect(&self) -> TaskClient {
        TaskClient::new(Client::connect(&self.address).await.unwrap())
    }

    async fn pid(&self) -> u32 {
        let response = self
            .connect()
            .await
            .connect(soon(), &ConnectRequest::new())
            .await
            .unwrap();
        assert_eq!(response.task_pid, 0);
        response.shim_pid
    }

    async fn shutdown(&self) {
        let client = self.connect().await;
        client
            .shutdown(soon(), &ShutdownRequest::new())
            .await
            .unwrap();
    }

    fn gone(&self, pid: u32) {
        ends(pid);
        assert!(!self.socket().exists(), "the socket is left behind");
    }
}

/// Waits until process `pid` has ended.
fn ends(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_there = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while is_there() {
        assert!(Instant::now() < deadline, "the shim is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn soon() -> context::Context {
    context::with_duration(Duration::from_secs(10))
}

fn code<T>(result: ttrpc::Result<T>) -> Code {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        Err(other) => panic!("no status: {other}"),
        Ok(_) => Code::OK,
    }
}

#[tokio::test]
async fn from_start_to_shutdown() {
    let bed = Bed::new();
    let shim = bed.start("c1");
    let mode = fs::metadata(shim.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let pid = shim.pid().await;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!(words[3], pid.to_string(), "a session of its own");
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "descriptor {fd}");
    }
    shim.connect()
        .await
        .shutdown(soon(), &ShutdownRequest::new())
        .await
        .unwrap();
    shim.gone(pid);
}

#[tokio::test]
async fn a_pod_has_one_shim() {
    let bed = Bed::new();
    let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"c1"}}"#;
    bed.bundle("c2", pod);
    bed.bundle("other", "{}");
    let (first, second, other) = (bed.start("c1"), bed.start("c2"), bed.start("other"));
    assert_eq!(first.address, second.address);
    assert_ne!(first.address, other.address);
    for shim in [first, other] {
        let pid = shim.pid().await;
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        shim.gone(pid);
    }
}

#[tokio::test]
async fn a_start_right_after_a_shutdown_makes_a_shim_that_stays() {
    let bed = Bed::new();
    let mut shim = bed.start("c1");
    let mut pid = shim.pid().await;
    for _ in 0..10 {
        shim.shutdown().await;
        shim = bed.start("c1");
        let next = shim.pid().await;
        assert_ne!(pid, next, "the shim that is exiting was found again");
        ends(pid);
        assert_eq!(
            shim.pid().await,
            next,
            "the old shim took the new one's socket along"
        );
        pid = next;
    }
    shim.shutdown().await;
    shim.gone(pid);
}

#[tokio::test]
async fn what_is_not_there_has_the_right_code() {
    let bed = Bed::new();
    let shim = bed.start("c1");
    let client = shim.connect().await;
    let id = || "nosuch".to_owned();
    let create = CreateTaskRequest {
        id: id(),
        checkpoint: "/x".into(),
        ..CreateTaskRequest::default()
    };
    assert_eq!(
        code(client.create(soon(), &create).await),
        Code::UNIMPLEMENTED
    );
    let create = CreateTaskRequest {
        id: id(),
        stdout: "x://y".into(),
        ..CreateTaskRequest::default()
    };
    assert_eq!(
        code(client.create(soon(), &create).await),
        Code::INVALID_ARGUMENT
    );

    // The id is field 1 of every request.
    let named = StateRequest {
        id: id(),
        ..StateRequest::default()
    };
    let raw = Client::connect(&shim.address).await.unwrap();
    for (service, method, expected) in [
        ("containerd.task.v2.Task", "State", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "State", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "Kill", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "Wait", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "Pids", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "Delete", Code::NOT_FOUND),
        ("containerd.task.v3.Task", "Checkpoint", Code::UNIMPLEMENTED),
        ("containerd.task.v2.Task", "Future", Code::UNIMPLEMENTED),
        (
            "containerd.runtime.sandbox.v1.Sandbox",
            "CreateSandbox",
            Code::UNIMPLEMENTED,
        ),
    ] {
        let request = ttrpc::Request {
            service: service.into(),
            method: method.into(),
            payload: named.write_to_bytes().unwrap(),
            timeout_nano: 10_000_000_000,
            ..ttrpc::Request::default()
        };
        assert_eq!(
            code(raw.request(request).await),
            expected,
            "{service} {method}"
        );
    }
    let pid = shim.pid().await;
    client
        .shutdown(soon(), &ShutdownRequest::new())
        .await
        .unwrap();
    shim.gone(pid);
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_stop_the_shim() {
    let bed = Bed::new();
    let log = bed.dir.path().join("c1/log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &log,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let reader = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let shim = bed.start("c1");
    let pid = timeout(Duration::from_secs(5), shim.pid()).await.unwrap();
    shim.connect()
        .await
        .shutdown(soon(), &ShutdownRequest::new())
        .await
        .unwrap();
    shim.gone(pid);
    drop(reader);
}

#[test]
fn a_bad_start_says_why_on_stderr_and_leaves_nothing() {
    let bed = Bed::new();
    bed.bundle("bad", "{");
    let output = bed.run("bad", "start", b"");
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("config.json"), "{text}");
    assert!(!bed.dir.path().join("bad/address").exists());
}

#[test]
fn delete_of_what_was_never_created() {
    let bed = Bed::new();
    let output = bed.run("c1", "delete", b"");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.pid, response.exit_status), (0, 137));
    assert!(response.exited_at.is_some());
}

#[test]
fn a_logger_finds_its_streams_and_nothing_else() {
    let (stdout_read, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stderr_read, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (ready, ready_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let result = tempfile::NamedTempFile::new().unwrap();
    let script = r#"exec >"$2"; cat <&3; cat <&4; exec 5>&-; env | sort; test -e /proc/self/fd/6 && echo six; readlink /proc/self/fd/0"#;
    let child = Command::new(SHIM)
        .args(["logger", "/bin/sh", "-c", script, "key", "value"])
        .arg(result.path())
        .env_clear()
        .env("CONTAINER_ID", "c1")
        .stdin(Stdio::from(stdout_read))
        .stdout(Stdio::from(stderr_read))
        .stderr(Stdio::from(ready_write))
        .spawn()
        .unwrap();
    fs::File::from(stdout).write_all(b"out\n").unwrap();
    fs::File::from(stderr).write_all(b"err\n").unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(ready), &mut rest).unwrap();
    assert!(rest.is_empty(), "ready is said by closing");
    let deadline = Instant::now() + Duration::from_secs(10);
    let text = loop {
        let text = fs::read_to_string(result.path()).unwrap();
        if text.contains("/dev/null") || Instant::now() > deadline {
            break text;
        }
    };
    drop(child);
    assert!(text.starts_with("out\nerr\nCONTAINER_ID=c1\n"), "{text}");
    assert!(!text.contains("six"), "only 3, 4 and 5: {text}");
}

/// What the program says when a person calls it with these words: its exit code, and both streams.
fn asked(words: &[&str]) -> (Option<i32>, String, String) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the reaper is the shim's; this is a test's own child"
    )]
    let output = Command::new(SHIM).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_person_is_told_what_this_is() {
    let (code, help, error) = asked(&[]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    for part in [
        "io.containerd.sysbox.v2",
        "check",
        "start",
        "delete",
        "-info",
        "/etc/containerd-shim-sysbox/config.toml",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for words in [
        &["--help"][..],
        &["-h"],
        &["-help"],
        &["help"],
        &["check", "--help"],
    ] {
        assert_eq!(asked(words), (Some(0), help.clone(), String::new()));
    }
    let version = asked(&["-v"]);
    assert!(version.1.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    assert_eq!(asked(&["--version"]), version);
}

#[test]
fn a_word_that_is_no_command_is_refused_and_the_nearest_named() {
    for (words, expected) in [
        (&["chek"][..], "chek: no such command; did you mean check?"),
        (&["fly"], "fly: no such command; --help lists them"),
        // As a containerd that forgot its command would call it: no help on its stdout.
        (&["-namespace", "ns", "-id", "c1"], "no command; --help"),
    ] {
        let (code, output, error) = asked(words);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{words:?}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn who_calls_a_stage_by_hand_is_told_what_it_is() {
    for stage in ["init", "exec", "host-view", "stand-in"] {
        let (code, output, error) = asked(&[stage]);
        assert_eq!((code, output.as_str()), (Some(125), ""), "{stage}");
        assert!(error.contains("no command,"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
