//! A real host of its own kernel in QEMU: what users have and nodes cannot show.
//!
//! ```text
//! test process ──stdin, stdout──► qemu, second serial port ──► node-init agent (root in the host, a unit of its systemd)
//!              ◄──stderr────────── first serial port: the kernel's console
//! ```
//! It writes to a snapshot of its disk that has no name, has no network, and dies with the test process.

mod agent;
mod disk;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use agent::agent;
use agent::{Answer, Request};
use disk::{Disk, Files};

use crate::cache;
use crate::debian::Release;
use crate::process::Output;

/// Packages of this machine that hosts are made and run by.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "e2fsprogs", "binutils"];

/// How long a boot may take: 25 s on a quiet machine, 110 s on a busy one, without KVM.
const BOOT: Duration = Duration::from_secs(300);
/// The same with it; where the processor that KVM shows cannot run the kernel, this long nothing happens.
const BOOT_BY_KVM: Duration = Duration::from_secs(40);
/// How much longer than a script may take its answer may.
const GRACE: Duration = Duration::from_secs(60);

/// How QEMU runs the host's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Emulation,
}

/// A running host. Dropping it ends it, and nothing of it stays.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    port: ChildStdin,
    answers: Receiver<Answer>,
    console: Arc<Mutex<String>>,
    requests: u64,
}

impl Vm {
    /// Boots the host of `release`: its engines run, its kernel is the release's.
    ///
    /// # Errors
    /// If its disk cannot be made, or it does not come up, twice: with the end of its console.
    pub fn boot(release: Release) -> Result<Self> {
        let disk = disk::root(release)?;
        let files = Files::make()?;
        if Path::new("/dev/kvm").exists()
            && let Ok(vm) = Self::start(&disk, &files, Accelerator::Kvm)
        {
            return Ok(vm);
        }
        // Of many boots one was lost in firmware.
        Self::start(&disk, &files, Accelerator::Emulation)
            .or_else(|_| Self::start(&disk, &files, Accelerator::Emulation))
    }

    fn start(disk: &Disk, files: &Files, accelerator: Accelerator) -> Result<Self> {
        let begin = Instant::now();
        let mut qemu = command(disk, files, accelerator)
            .env("TMPDIR", cache::root()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start qemu")?;
        let port = qemu.stdin.take().context("qemu has no input")?;
        let (stdout, stderr) = (qemu.stdout.take(), qemu.stderr.take());
        let (send, answers) = mpsc::channel();
        let console = Arc::new(Mutex::new(String::new()));
        let vm = Self {
            qemu,
            port,
            answers,
            console: Arc::clone(&console),
            requests: 0,
        };
        reader("answers", move || {
            let lines = BufReader::new(stdout?).split(b'\n');
            for line in lines.map_while(Result::ok) {
                if let Ok(answer) = serde_json::from_slice(&line) {
                    send.send(answer).ok()?;
                }
            }
            Some(())
        })?;
        reader("console", move || {
            let (mut stderr, mut bytes) = (stderr?, [0; 4096]);
            while let Ok(length @ 1..) = stderr.read(&mut bytes) {
                let text = String::from_utf8_lossy(bytes.get(..length)?);
                console
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
            Some(())
        })?;
        let patience = match accelerator {
            Accelerator::Kvm => BOOT_BY_KVM,
            Accelerator::Emulation => BOOT,
        };
        vm.answer(0, patience).context("boot the host")?;
        println!(
            "host: up in {:.0} s by {accelerator:?}",
            begin.elapsed().as_secs_f64()
        );
        Ok(vm)
    }

    /// Runs a script of bash as root in the host.
    ///
    /// # Errors
    /// If the host does not answer: it is of no use any more then. An exit code is no error.
    pub fn exec(&mut self, script: &str, deadline: Duration) -> Result<Output> {
        let begin = Instant::now();
        self.requests += 1;
        let mut line = serde_json::to_vec(&Request {
            number: self.requests,
            script: script.to_owned(),
            seconds: deadline.as_secs(),
        })?;
        line.push(b'\n');
        self.port.write_all(&line).context("write to the host")?;
        self.port.flush().context("write to the host")?;
        let answer = self.answer(self.requests, deadline + GRACE)?;
        Ok(Output::of(
            script,
            answer.code,
            answer.stdout,
            answer.stderr,
            begin.elapsed(),
        ))
    }

    fn answer(&self, number: u64, deadline: Duration) -> Result<Answer> {
        let begin = Instant::now();
        loop {
            let left = deadline.saturating_sub(begin.elapsed());
            match self.answers.recv_timeout(left) {
                Ok(answer) if answer.number == number => return Ok(answer),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the host does not answer\n{}", self.console_tail())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the host is gone\n{}", self.console_tail())
                }
            }
        }
    }

    /// The last lines of its console, for a failure's report.
    #[must_use]
    pub fn console_tail(&self) -> String {
        let text = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(30);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

/// A thread that reads what QEMU writes until that ends.
fn reader(name: &str, body: impl FnOnce() -> Option<()> + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .context("start a thread")
}

/// QEMU, below everything else that this machine does, and no longer than the thread that starts it.
fn command(disk: &Disk, files: &Files, accelerator: Accelerator) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "nice",
        "-n",
        "10",
        "qemu-system-x86_64",
    ]);
    command.args(match accelerator {
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        Accelerator::Emulation => ["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"],
    });
    command.args("-smp 2 -m 3072 -display none -no-reboot -nodefaults -nic none".split(' '));
    command.arg("-kernel").arg(&disk.kernel);
    // No initrd: the drivers of this controller and of ext4 are in the kernel. Modules that a host in QEMU has no use for cost
    // seconds of emulation.
    command.args([
        "-append",
        "root=/dev/nvme0n1 rw panic=-1 console=ttyS0 quiet loglevel=4 systemd.show_status=0 mitigations=off net.ifnames=0 \
         tsc=reliable module_blacklist=kvm_amd,kvm_intel,kvm,ata_piix,ata_generic,powernow_k8,drm,pcspkr,serio_raw,i6300esb,\
         button,configfs,efi_pstore,cryptd,aesni_intel,ghash_clmulni_intel",
    ]);
    for (name, image, device, options) in [
        ("root", &disk.image, "nvme", "snapshot=on,cache=unsafe"),
        ("files", &files.image(), "virtio-blk-pci", "readonly=on"),
    ] {
        command.arg("-drive").arg(format!(
            "file={},if=none,id={name},format=raw,{options}",
            image.display()
        ));
        command
            .arg("-device")
            .arg(format!("{device},drive={name},serial={name}"));
    }
    command.args([
        "-chardev",
        "file,id=console,path=/dev/stderr",
        "-serial",
        "chardev:console",
        "-chardev",
        "stdio,id=agent,signal=off",
        "-serial",
        "chardev:agent",
    ]);
    command
}
