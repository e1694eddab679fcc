//! The process that serves the host's view of a container's root file system has power over that and nothing else; it is out
//! of the container's reach, and its end, its stop and its being held up are the engine's loss of a moment.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::bed::docker::{Bed, Container};
use integration::hostile::{Rescue, meet};
use integration::node::Node;
use integration::process;

use crate::case::Case;
use crate::waits;

pub(crate) const CASES: &[Case] = &[
    Case::docker("confined", confined).ours(NONE),
    Case::docker("out_of_reach", out_of_reach).ours(NONE),
    Case::docker("killed", killed).ours(NONE),
    Case::docker("killed_while_an_operation_hangs", killed_meanwhile).ours(NONE),
    Case::docker("stopped", stopped).ours(NONE),
    Case::docker("held_up_in_all_its_places", held_up).ours(NONE),
    Case::docker("after_the_shim", after_the_shim).ours(NONE),
    Case::docker("memory", memory).ours(NONE),
];

const NONE: &str = "runc leaves the engine's own mount where it is";

/// More than any bound of ours.
const BOUND: Duration = Duration::from_secs(40);

/// A running container and the host's view of it.
struct Seen<'a> {
    node: &'a Node,
    container: Container<'a>,
    /// Where the engine has it.
    path: String,
    /// Pid of init in the node.
    init: String,
}

impl<'a> Seen<'a> {
    fn new(bed: &'a Bed<'a>) -> Result<Self> {
        let container = bed.detached(&[], &["/probe", "sleep"])?;
        let inspect = |what| bed.docker(&["inspect", "-f", what, &container.id]);
        let path = inspect("{{.GraphDriver.Data.MergedDir}}")?
            .text()
            .to_owned();
        let init = inspect("{{.State.Pid}}")?.text().to_owned();
        let node = bed.node;
        Ok(Self {
            node,
            container,
            path,
            init,
        })
    }

    /// Pids of all that serve a view on this node.
    fn servers(&self) -> Result<Vec<String>> {
        let found = self.node.shell(&format!("{SERVERS} || true"))?.ok()?;
        Ok(found.text().lines().map(str::to_owned).collect())
    }

    /// The one that serves, after a first look.
    fn server(&self) -> Result<String> {
        self.host("stat \"$view/etc\"")?;
        let [server] = <[String; 1]>::try_from(self.servers()?)
            .ok()
            .context("not one process serves")?;
        Ok(server)
    }

    /// A script on the host, which must succeed: `$view`, `$init`.
    fn host(&self, script: &str) -> Result<String> {
        let output = process::run(&mut self.command(script), b"", BOUND)?.ok()?;
        Ok(output.text().to_owned())
    }

    fn command(&self, script: &str) -> Command {
        let Self { path, init, .. } = self;
        let script = format!("view={path}; init={init}\n{script}");
        self.node.command(&["/bin/sh", "-ec", &script])
    }

    /// What docker(1) copies works, and the container has noticed nothing.
    fn works(&self) -> Result<()> {
        let id = &self.container.id;
        self.host(&format!(
            "echo copied >/tmp/copied; docker cp /tmp/copied {id}:/copied; rm /tmp/copied; docker cp {id}:/copied - | tar xO | grep -x copied"
        ))?;
        ensure!(self.container.shell("cat /copied")? == "copied");
        self.host("kill -0 $init").map(drop)
    }

    /// Removes the container, and looks for what it leaves.
    fn gone(self) -> Result<()> {
        let id = &self.container.id;
        self.host(&format!("docker rm -f -v {id}"))?;
        nothing_left(self.node)
    }
}

const SERVERS: &str = "pgrep -f '^/proc/self/exe host-view$'";

/// No process, cgroup or mount of a view.
fn nothing_left(node: &Node) -> Result<()> {
    let script = format!(
        "i=0; while {SERVERS} || find /sys/fs/cgroup -path '*{}*' -name '*.view' | grep . || grep sysbox-view /proc/self/mountinfo; do
           sleep 0.1; i=$((i + 1)); [ $i -lt 100 ]; done",
        node.name()
    );
    node.shell(&script)?.ok().map(drop)
}

fn confined(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    ensure!(seen.servers()?.is_empty(), "one before anybody has looked");
    let server = seen.server()?;
    let status = seen.host(&format!("cat /proc/{server}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    // chown, dac_override, fowner, fsetid, setfcap.
    let files = "000000008000001b";
    for (set, value) in [
        ("CapEff:", files),
        ("CapPrm:", files),
        ("CapBnd:", files),
        ("CapInh:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("Groups:", ""),
    ] {
        ensure!(field(set) == value, "{set} {}", field(set));
    }
    let ids = |pid: &str| seen.host(&format!("grep -E '^(Uid|Gid)' /proc/{pid}/status"));
    ensure!(ids(&server)? == ids(&seen.init)?, "{}", ids(&server)?);
    seen.host(&format!(
        r#"server={server}
        same() {{ [ "$(readlink "/proc/$1/ns/$3")" = "$(readlink "/proc/$2/ns/$3")" ]; }}
        same $server $init user
        ! same $server $init mnt
        ! same $server self mnt
        # Nothing is to be found by a path: /proc with processes alone, of those it may trace.
        [ "$(ls -A /proc/$server/root)" = proc ]
        [ ! -e /proc/$server/root/proc/sys ]
        [ "$(wc -l </proc/$server/mountinfo)" = 2 ]
        # Nobody but the host's root may look into it.
        [ "$(stat -c %u /proc/$server/environ)" = 0 ]
        [ -z "$(tr -d '\0' </proc/$server/environ)" ]
        # Beside the container's, bounded.
        of() {{ sed -n 's/^0:://p' "/proc/$1/cgroup"; }}
        own=$(of $server)
        container=$(of $init); container=${{container%/init.scope}}
        [ "$own" = "$container.view" ]
        cd "/sys/fs/cgroup$own"
        # A host may count these by cgroup v1.
        [ ! -e memory.max ] || [ "$(cat memory.max)" = 134217728 ]
        [ ! -e pids.max ] || [ "$(cat pids.max)" = 128 ]
        grep -E '^Max data size +268435456 +268435456 ' /proc/$server/limits
        [ "$(stat -c %u . cgroup.procs | sort -u)" = 0 ]
        # The container's files, and sockets.
        for fd in /proc/$server/fd/*; do
            case "$(readlink $fd)" in /|/null|/dev/null|socket:*) ;; *) ls -l /proc/$server/fd; exit 1;; esac
        done"#
    ))?;
    seen.works()?;
    seen.gone()
}

fn out_of_reach(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    // What root inside sees are processes and cgroups of the container.
    seen.container.shell(
        "! grep -l host-view /proc/[0-9]*/cmdline
         ! find /sys/fs/cgroup -name '*.view' | grep .
         ! ls /sys/fs/cgroup/../*.view",
    )?;
    // All that it may signal: this very process is spared, and so is init.
    seen.container.shell("kill -9 -1 2>/dev/null || true")?;
    ensure!(seen.server()? == server, "another serves now");
    seen.works()?;
    seen.gone()
}

fn killed(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    let mut last = seen.server()?;
    for _ in 0..5 {
        seen.host(&format!("kill -9 {last}"))?;
        seen.works()?;
        let server = seen.server()?;
        ensure!(server != last, "it lives");
        last = server;
    }
    // Killed at any moment, it takes with it what hangs on it, and nothing more.
    seen.host(&format!(
        "(for i in $(seq 20); do {SERVERS} | xargs -r kill -9; sleep 0.02; done) &
         find $view 2>/dev/null | wc -l; wait"
    ))?;
    seen.works()?;
    seen.gone()
}

/// Has a process of the container hold the lock of a directory, and an operation of the host's hang in it.
fn held<'a>(seen: &Seen<'a>, directory: &str) -> Result<Rescue<'a>> {
    let line = waits::in_background(&["fuse-hold", "/f", directory]);
    seen.container.shell(&line)?;
    meet(seen.node, seen.init.parse()?, "ready")
}

fn killed_meanwhile(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    let _rescue = held(&seen, "/etc")?;
    let mut look = seen.command("stat $view/etc/new");
    let begin = Instant::now();
    let looking = thread::Builder::new()
        .name("look".into())
        .spawn(move || process::run(&mut look, b"", BOUND))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(!looking.is_finished(), "it does not hang");
    // One of its threads is in the container's hands, and so it does not die.
    seen.host(&format!("kill -9 {server}"))?;
    let looked = looking.join().ok().context("a panic")??;
    ensure!(looked.code != 0, "{looked:?}");
    ensure!(begin.elapsed() < BOUND / 2, "{:?}", begin.elapsed());
    seen.host("stat $view/bin")?;
    seen.gone()
}

fn stopped(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    seen.host(&format!("kill -STOP {server}"))?;
    let begin = Instant::now();
    let look = process::run(&mut seen.command("stat $view/etc"), b"", BOUND)?;
    ensure!(look.stderr.contains("timed out"), "{look:?}");
    let elapsed = begin.elapsed();
    ensure!(
        elapsed > Duration::from_secs(9) && elapsed < BOUND,
        "{elapsed:?}"
    );
    seen.works()?;
    ensure!(seen.server()? != server, "it serves again");
    seen.gone()
}

/// A thread of it hangs at each of so many directories.
fn held_up(bed: &Bed<'_>) -> Result<()> {
    const PLACES: usize = 16;
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    let mut rescues = Vec::new();
    for number in 0..PLACES {
        let (fuse, directory) = (format!("/f{number}"), format!("/d{number}"));
        let hold = waits::in_background(&["fuse-hold", &fuse, &directory]);
        seen.container
            .shell(&format!("mkdir {directory}; {hold}"))?;
        seen.host(&format!(
            "stat $view{directory}
             until [ $(cat /proc/$init/root/proc/[0-9]*/comm | grep -cx ready) -gt {number} ]; do sleep 0.05; done"
        ))?;
        rescues.push(meet(seen.node, seen.init.parse()?, "ready")?);
    }
    seen.host(&format!(
        "[ $({{ for i in $(seq 0 {}); do stat $view/d$i/new 2>&1 & done; wait; }} | grep -c 'timed out') -ge 12 ]",
        PLACES - 1
    ))?;
    seen.works()?;
    let now = seen.servers()?;
    ensure!(now.iter().any(|pid| *pid != server), "{now:?} serve");
    seen.gone()
}

fn after_the_shim(bed: &Bed<'_>) -> Result<()> {
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    seen.host(&format!(
        "kill -STOP {server}; kill -9 $(sed -n 's/^PPid:\\t//p' /proc/$init/status)"
    ))?;
    nothing_left(seen.node)?;
    let id = &seen.container.id;
    seen.host(&format!("docker start {id}"))?;
    let again = bed.docker(&["inspect", "-f", "{{.State.Pid}}", id])?;
    let seen = Seen {
        init: again.text().to_owned(),
        ..seen
    };
    seen.works()?;
    seen.gone()
}

fn memory(bed: &Bed<'_>) -> Result<()> {
    const DIRECTORIES: u32 = 20_000;
    let seen = Seen::new(bed)?;
    let server = seen.server()?;
    let kib = |what: &str, pid: &str| -> Result<u64> {
        let line = seen.host(&format!("grep {what} /proc/{pid}/status"))?;
        let number = line.split_whitespace().nth(1);
        number.context("no number")?.parse().map_err(Into::into)
    };
    let shim = seen.host("sed -n 's/^PPid:\\t//p' /proc/$init/status")?;
    let (shim_before, before) = (kib("RssAnon", &shim)?, kib("RssAnon", &server)?);
    seen.container.shell(&format!(
        "mkdir /many; cd /many; seq {DIRECTORIES} | xargs mkdir"
    ))?;
    // Each is looked up, and known to the server from then on.
    let mut find = seen.command("find $view/many -maxdepth 1 -perm -1 | wc -l");
    let found = process::run(&mut find, b"", 4 * BOUND)?.ok()?;
    ensure!(found.text() == (DIRECTORIES + 1).to_string(), "{found:?}");
    ensure!(seen.server()? == server, "it was replaced");
    let (shim_after, after) = (kib("RssAnon", &shim)?, kib("RssAnon", &server)?);
    ensure!(
        shim_after < shim_before + 1024 && after < before + 32 * 1024,
        "KiB: the shim {shim_before} to {shim_after}, the server {before} to {after}"
    );
    seen.gone()
}
