//! Docker in a container: ours as it is, runc's and crun's privileged and with a directory of the host for its data.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::measure::Metric;
use crate::runtime::Runtime;

/// How long dockerd may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where runc's and crun's dockerd keeps its data: overlay does not lie on overlay, and ours arranges that by itself.
const DATA: &str = "/srv/bench.docker";

/// ctr gives runc none by itself.
const CGROUP: &str = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=rw:nosuid:noexec:nodev";

/// `dind-ready`, from `ctr run` to the answer of `docker info` inside, and `inner-run`, `docker run --rm` of `true` inside.
pub(crate) fn both(rounds: usize, image: &str) -> Result<[Metric; 2]> {
    let mut ready = Metric::new("dind-ready", "ms");
    let mut run = Metric::new("inner-run", "ms");
    for round in 0..rounds {
        for runtime in Runtime::round(round) {
            let begin = Instant::now();
            let docker = Docker::start(runtime, round, image)?;
            docker.exec("info", &["docker", "info"])?;
            ready.since(runtime, begin);
            for sample in docker.runs(5)? {
                run.add(runtime, sample);
            }
            docker.stop()?;
        }
    }
    Ok([ready, run])
}

struct Docker {
    id: String,
    data: PathBuf,
}

impl Docker {
    /// Starts the container; dockerd answers when this returns.
    fn start(runtime: Runtime, round: usize, image: &str) -> Result<Self> {
        let id = format!("{}-dind{round}", runtime.name());
        let data = Path::new(DATA).join(&id);
        let mount = format!(
            "type=bind,src={},dst=/var/lib/docker,options=rbind:rw",
            data.display()
        );
        let mut line = vec!["run", "-d", "--null-io", "--cpu-shares", "0"];
        line.extend(runtime.ctr_options());
        if runtime != Runtime::Ours {
            fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
            line.extend(["--privileged", "--mount", &mount, "--mount", CGROUP]);
        }
        line.extend([image, &id]);
        ctr(&line)?;
        let docker = Self { id, data };
        docker.answers()?;
        Ok(docker)
    }

    /// Waits for the answer to a ping at dockerd's socket, as seen from outside: asking from inside would cost an exec.
    fn answers(&self) -> Result<()> {
        let list = ctr(&["task", "ls"])?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let pid = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.first() == Some(&self.id.as_str()))
            .and_then(|row| row.get(1).map(|pid| (*pid).to_owned()))
            .with_context(|| format!("{} is not listed", self.id))?;
        let socket = format!("/proc/{pid}/root/run/docker.sock");
        let begin = Instant::now();
        while !ping(Path::new(&socket)) {
            ensure!(
                begin.elapsed() < DEADLINE,
                "the dockerd of {} does not answer",
                self.id
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn exec(&self, exec: &str, words: &[&str]) -> Result<String> {
        let line = ["task", "exec", "--exec-id", exec, &self.id];
        let output = ctr(&[&line, words].concat())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Milliseconds that each of `count` runs took, by a clock inside.
    fn runs(&self, count: usize) -> Result<Vec<f64>> {
        let script = format!(
            "docker import /root/bb.tar bb >/dev/null; docker run --rm --network none bb true
             for i in $(seq {count}); do a=$(date +%s%N); docker run --rm --network none bb true; b=$(date +%s%N); echo $((b-a)); done"
        );
        let text = self.exec("runs", &["/bin/sh", "-ec", &script])?;
        text.lines()
            .map(|line| Ok(line.trim().parse::<f64>()? / 1e6))
            .collect()
    }

    fn stop(self) -> Result<()> {
        ctr(&["task", "rm", "--force", &self.id])?;
        ctr(&["container", "rm", &self.id])?;
        if self.data.exists() {
            fs::remove_dir_all(&self.data).context("remove dockerd's data")?;
        }
        Ok(())
    }
}

/// Whether dockerd is up (`GET /_ping`).
fn ping(socket: &Path) -> bool {
    let answer = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.is_ok_and(|answer| answer.contains(" 200 "))
}

fn ctr(words: &[&str]) -> Result<Output> {
    command::run(&[&["ctr"], words].concat())
}
