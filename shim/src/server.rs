//! The shim's long-running process: serves the task API on the socket that `start` bound, until containerd says
//! Shutdown or somebody sends SIGTERM.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use runtime_core::OsContext;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::config::Source;
use crate::error::{Error, Result};
use crate::events::{self, Events};
use crate::flags::Flags;
use crate::pod::Pod;
use crate::socket::Served;
use crate::start::{CONFIG_BODY, TTRPC_ADDRESS};
use crate::{log, places, service};

/// Threads for verbs come and go with the load; idle ones cost memory in every pod.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// As many as 256 containers have places for ([`crate::places`]): a bound that no verb ever waits at.
const MAX_THREADS: usize = 256 * places::OF_A_CONTAINER;
/// How long containerd may take no event at the end until the rest is given up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves; returns when the shim is to exit. stdin is the bound socket.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    // Fails only for a process that leads a group already, which is what we want to be.
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"containerd-shim").os("prctl", "PR_SET_NAME")?;
    let bundle = std::env::current_dir().os("getcwd", "")?;
    log::init(&bundle, &flags.namespace, &flags.id, flags.debug);
    let listener = take_listener()?;
    let socket = Arc::new(Served::new(flags.socket.clone()));
    let result = serve(flags, &bundle, listener, &socket);
    if let Err(error) = &result {
        tracing::error!(%error, "shim failed");
    }
    socket.release()?;
    result
}

/// The socket that `start` passed as stdin, which becomes /dev/null.
fn take_listener() -> Result<StdListener> {
    let stdin = io::stdin();
    let listener = stdin.as_fd().try_clone_to_owned().os("dup", "stdin")?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).os("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).os("dup2", "stdin")?;
    let listener = StdListener::from(listener);
    listener
        .set_nonblocking(true)
        .os("fcntl O_NONBLOCK", "socket on stdin")?;
    Ok(listener)
}

fn serve(flags: &Flags, bundle: &Path, listener: StdListener, socket: &Arc<Served>) -> Result<()> {
    let config = Source {
        path: flags.config.clone(),
        body: std::env::var(CONFIG_BODY).unwrap_or_default(),
    };
    let core = runtime_core::Pod::new(config.load()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .thread_name("verb")
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .max_blocking_threads(MAX_THREADS)
        .build()
        .os("start", "runtime")?;
    let result = runtime.block_on(async {
        let events = Events::new(&flags.namespace);
        let ttrpc_address = std::env::var(TTRPC_ADDRESS).unwrap_or_default();
        let publisher = tokio::spawn(events::publish(events.clone(), ttrpc_address));
        let pod = Pod::new(
            core.clone(),
            &flags.namespace,
            config,
            bundle,
            events.clone(),
            socket.clone(),
        );
        let listener = UnixListener::from_std(listener).os("epoll on", "socket")?;
        let mut server = Server::new()
            .add_listener(Listener::new(trusted(listener)))
            .register_service(service::services(&pod));
        server
            .start()
            .await
            .map_err(|e| Error::Internal(format!("ttrpc server: {e}")))?;
        // While containerd connects.
        tokio::task::spawn_blocking(move || core.prepare());
        let (mut term, mut int) = (
            exit_signal(SignalKind::terminate())?,
            exit_signal(SignalKind::interrupt())?,
        );
        tokio::select! {
            () = pod.done() => {}
            _ = term.recv() => tracing::warn!("exit on SIGTERM"),
            _ = int.recv() => tracing::warn!("exit on SIGINT"),
        }
        socket.release()?;
        flush(&events, publisher).await;
        // The reply to Shutdown is on its way to the connection's writer.
        sleep(Duration::from_millis(2)).await;
        Ok(())
    });
    // What still runs on a blocking thread ends with the process.
    runtime.shutdown_background();
    result
}

/// Delivers what is queued, for as long as containerd takes it.
async fn flush(events: &Events, publisher: JoinHandle<()>) {
    events.close();
    tokio::pin!(publisher);
    let mut taken = events.taken();
    while timeout(FLUSH_TIMEOUT, &mut publisher).await.is_err() {
        let before = std::mem::replace(&mut taken, events.taken());
        if taken == before {
            tracing::error!("containerd takes no events; the last ones are lost");
            return;
        }
    }
}

fn exit_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    Ok(signal(kind).os("sigaction", format_args!("signal {}", kind.as_raw_value()))?)
}

/// Connections of our own user, root. The socket's mode says so already; the kernel's word for the peer is the second
/// lock (unix(7), SO_PEERCRED).
fn trusted(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    unfold(listener, async |listener| {
        loop {
            match accept(&listener).await {
                Ok(Some(stream)) => return Some((Ok(stream), listener)),
                Ok(None) => {}
                Err(error) => {
                    // Out of descriptors, most likely: do not spin until there are some.
                    tracing::error!(%error, "accept");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

async fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    let (stream, _) = listener.accept().await?;
    let peer = stream.peer_cred()?.uid();
    if peer == rustix::process::geteuid().as_raw() {
        return Ok(Some(stream));
    }
    tracing::warn!(uid = peer, "connection of another user refused");
    Ok(None)
}
