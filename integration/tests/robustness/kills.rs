//! `kill -9` at random moments. The seed is printed, so that a run can be had again as far as time allows.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::{DEADLINE, Node};
use integration::process;
use integration::shim_api::{Bundle, Shim};

use crate::number;
use crate::watch::processes;

const RUNTIME: &str = "io.containerd.sysbox.v2";
/// Longer than any verb takes on an idle machine.
const LONGEST: u64 = 150;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Shim,
    Stage,
    Init,
    Containerd,
}

/// xorshift64*: good enough to choose moments, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let seed = number("SYSBOX_KILL_SEED", u64::from(now.subsec_nanos()) | 1)?;
        println!("SYSBOX_KILL_SEED={seed}");
        Ok(Self(seed.max(1)))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let index = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        all[index]
    }
}

/// Pids in the node of processes that are such a victim now.
pub(crate) fn victims(node: &Node, victim: Victim) -> Vec<u32> {
    let all = processes(node);
    let line = |pid: u32| {
        let line = std::fs::read(node.path(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .trim_end()
            .to_owned()
    };
    let named = |pid: u32, what: &[&str]| {
        let line = line(pid);
        what.iter().any(|word| line.ends_with(word))
    };
    let pids = all.iter().map(|(pid, ..)| *pid);
    match victim {
        Victim::Shim => {
            let shims: Vec<_> = pids
                .filter(|pid| named(*pid, &[" serve", " start"]))
                .collect();
            // A stage has the shim's command line until it has come to exec.
            let of_shim = |pid| {
                all.iter()
                    .any(|(other, _, parent)| *other == pid && shims.contains(parent))
            };
            shims.iter().copied().filter(|pid| !of_shim(*pid)).collect()
        }
        Victim::Stage => pids
            .filter(|pid| named(*pid, &["/proc/self/exe init", "/proc/self/exe exec"]))
            .collect(),
        Victim::Init => pids.filter(|pid| line(*pid) == "/probe sleep").collect(),
        Victim::Containerd => Vec::new(),
    }
}

/// Kills one of them, if there is one within the time left.
fn kill(node: &Node, victim: Victim, random: &mut Random) -> Result<bool> {
    let begin = Instant::now();
    // A stage lives for milliseconds: it is waited for.
    let patience = Duration::from_millis(if victim == Victim::Stage { LONGEST } else { 1 });
    loop {
        let found = victims(node, victim);
        if !found.is_empty() {
            let pid = random.one_of(&found);
            std::thread::sleep(Duration::from_micros(match victim {
                Victim::Stage => random.below(6000),
                _ => 0,
            }));
            return Ok(node.shell(&format!("kill -9 {pid}"))?.code == 0);
        }
        if begin.elapsed() > patience {
            return Ok(false);
        }
    }
}

/// The same, and containerd comes back at once.
pub(crate) fn strike(node: &Node, victim: Victim, random: &mut Random) -> Result<bool> {
    if victim != Victim::Containerd {
        return kill(node, victim, random);
    }
    node.kill_containerd("KILL")?;
    node.start_containerd()?;
    Ok(true)
}

/// Waits for a client.
pub(crate) fn ends(client: &mut Child) -> Result<()> {
    let begin = Instant::now();
    while client.try_wait()?.is_none() {
        if begin.elapsed() > DEADLINE {
            client.kill()?;
            client.wait()?;
            bail!("the client hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Kills under a real containerd, which cleans up.
pub(crate) fn with_containerd() -> Result<()> {
    let cycles = number("SYSBOX_KILL_CYCLES", 60)? / 2;
    let mut random = Random::new()?;
    let node = Node::start(Release::Sid)?;
    let image = node.import(Image::Busybox)?;
    run(&node, image, "first")?.wait()?;
    clean_up(&node, "first")?;
    // The collector takes what the import left when it runs next.
    node.ctr(&["content", "prune", "references"])?.ok()?;
    std::thread::sleep(Duration::from_secs(1));
    let before = Snapshot::of_node(&node);
    let mut hits = 0;
    for cycle in 0..cycles {
        let victim = random.one_of(&[
            Victim::Shim,
            Victim::Stage,
            Victim::Init,
            Victim::Containerd,
        ]);
        let id = format!("k{cycle}");
        let moment = random.below(LONGEST * 3);
        let hit = one(&node, image, &id, victim, moment, &mut random)
            .and_then(|hit| {
                clean_up(&node, &id)?;
                leak::settled(&node, &before)?;
                Ok(hit)
            })
            .map_err(|error| {
                let log = node.log_tail();
                error.context(format!(
                    "cycle {cycle}: {victim:?} killed {moment} ms after the first verb\n{log}"
                ))
            })?;
        hits += u64::from(hit);
    }
    enough(hits, cycles)
}

/// The verbs of a container's life in another process, and a kill after `moment` milliseconds of it.
fn one(
    node: &Node,
    image: &str,
    id: &str,
    victim: Victim,
    moment: u64,
    random: &mut Random,
) -> Result<bool> {
    let begin = Instant::now();
    let mut verbs = run(node, image, id)?;
    let wait = Duration::from_millis(moment).saturating_sub(begin.elapsed());
    std::thread::sleep(wait);
    let hit = strike(node, victim, random)?;
    ends(&mut verbs)?;
    if victim == Victim::Containerd && is_running(node, id)? {
        found_again(node, id)?;
    }
    Ok(hit)
}

/// create, start, two execs, kill: whichever fails, the next is tried.
fn run(node: &Node, image: &str, id: &str) -> Result<Child> {
    let script = format!(
        "ctr run -d --null-io --runtime {RUNTIME} {image} {id} /probe sleep
         ctr task exec --exec-id a {id} /probe exit 3
         ctr task exec --exec-id b {id} /probe exit 4
         exit 0"
    );
    let mut command = node.command(&["/bin/sh", "-c", &script]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start ctr")
}

fn is_running(node: &Node, id: &str) -> Result<bool> {
    let list = node.ctr(&["task", "ls"])?.ok()?;
    Ok(list.stdout.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(id) && words.nth(1) == Some("RUNNING")
    }))
}

/// A restarted containerd has the container: its processes, execs, and its exit code.
fn found_again(node: &Node, id: &str) -> Result<()> {
    let pids = node.ctr(&["task", "ps", id])?.ok()?;
    ensure!(
        pids.stdout.lines().count() >= 2,
        "no processes: {}",
        pids.stdout
    );
    node.ctr(&[
        "task",
        "exec",
        "--exec-id",
        "again",
        id,
        "/probe",
        "exit",
        "7",
    ])?
    .exits(7)
    .context("exec after a restart of containerd")?;
    node.ctr(&["task", "kill", "--signal", "SIGKILL", id])?
        .ok()?;
    let begin = Instant::now();
    while is_running(node, id)? {
        ensure!(begin.elapsed() < DEADLINE, "it does not stop");
        std::thread::sleep(Duration::from_millis(10));
    }
    let deleted = node.ctr(&["task", "delete", id])?;
    ensure!(
        deleted.stderr.contains("137"),
        "another exit status than 137: {}",
        deleted.stderr
    );
    Ok(())
}

/// What a client does that wants the container gone, whatever has become of it.
fn clean_up(node: &Node, id: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        // Which of these has something to do depends on where the kill hit.
        node.ctr(&["task", "delete", "--force", id])?;
        let deleted = node.ctr(&["container", "delete", id])?;
        let list = node.ctr(&["container", "ls", "-q"])?.ok()?;
        if !list.stdout.lines().any(|line| line == id) {
            // ctr forgets the fifos of an exec that could not be started.
            node.shell("rm -rf /run/containerd/fifo/*")?.ok()?;
            // The lease of a ctr whose containerd died under it keeps its snapshot for a day.
            node.shell(
                "for lease in $(ctr leases ls -q); do ctr leases delete --sync $lease; done",
            )?
            .ok()?;
            return Ok(());
        }
        ensure!(
            begin.elapsed() < DEADLINE,
            "the container cannot be deleted: {}",
            deleted.stderr
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills without an engine: our own `delete` cleans up.
pub(crate) fn without_containerd() -> Result<()> {
    let cycles = number("SYSBOX_KILL_CYCLES", 60)?.div_ceil(2);
    let mut random = Random::new()?;
    let node = Node::start(Release::Sid)?;
    node.import(Image::Busybox)?;
    let bundle = Bundle::new(&node, "first", &["/probe", "sleep"], |_| {})?;
    bundle.remove(&node)?;
    let before = Snapshot::of_node(&node);
    let mut hits = 0;
    for cycle in 0..cycles {
        let victim = random.one_of(&[Victim::Shim, Victim::Stage, Victim::Init]);
        let moment = random.below(LONGEST);
        let hit = alone(&node, &format!("k{cycle}"), victim, moment, &mut random)
            .and_then(|hit| {
                leak::settled(&node, &before)?;
                Ok(hit)
            })
            .with_context(|| format!("cycle {cycle}: {victim:?} killed after {moment} ms"))?;
        hits += u64::from(hit);
    }
    enough(hits, cycles)
}

/// Kills that come too late show nothing.
pub(crate) fn enough(hits: u64, cycles: u64) -> Result<()> {
    println!("{cycles} cycles, {hits} kills hit");
    ensure!(
        hits * 2 >= cycles,
        "only {hits} of {cycles} kills hit anything"
    );
    Ok(())
}

fn alone(node: &Node, id: &str, victim: Victim, moment: u64, random: &mut Random) -> Result<bool> {
    let bundle = Bundle::new(node, id, &["/probe", "sleep"], |_| {})?;
    let shim = Shim::start(node, &bundle)?;
    let verbs = {
        let (client, bundle) = (shim.client.clone(), bundle.clone());
        shim.spawn(async move {
            bundle.run(&client).await?;
            for n in 0..100 {
                bundle
                    .task
                    .execute(&client, &format!("e{n}"), &["/probe", "exit", "3"])
                    .await?;
            }
            bundle.task.end(&client).await.map(drop)
        })
    };
    std::thread::sleep(Duration::from_millis(moment));
    let hit = kill(node, victim, random)?;
    if victim == Victim::Shim && hit {
        shim.run(verbs)?
            .err()
            .context("verbs of a dead shim succeeded")?;
    } else {
        // Every verb ends, well or badly; the container is deleted whatever it has become.
        let ended = shim.run(async { tokio::time::timeout(DEADLINE, verbs).await });
        let ended = ended.context("a verb hangs")??;
        if ended.is_err() {
            shim.run(async {
                // Not there, or not running: then there is nothing to stop.
                let _ = bundle.task.kill(&shim.client, "", 9).await;
                let deleted = tokio::time::timeout(DEADLINE, async {
                    loop {
                        match bundle.task.delete(&shim.client, "").await {
                            Ok(_) => return,
                            Err(ttrpc::Error::RpcStatus(status))
                                if status.code() == ttrpc::Code::NOT_FOUND =>
                            {
                                return;
                            }
                            // Its exit is under way.
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                });
                deleted.await.context("it cannot be deleted")
            })?;
        }
        shim.shutdown(node)?;
    }
    // As containerd: after a dead shim, and after any other, too.
    process::run(&mut bundle.command(node, "delete"), b"", DEADLINE)?.ok()?;
    let socket = node.path("/srv/events.sock");
    if socket.exists() {
        std::fs::remove_file(socket).context("remove the events socket")?;
    }
    bundle.remove(node)?;
    Ok(hit)
}
