//! A booted host with the runtime installed as its users do it.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::debian::Release;
use integration::kernel_log;
use integration::process::Output;
use integration::vm::Vm;

/// How long a script may take unless the case says otherwise: everything takes twenty times as long there.
const DEADLINE: Duration = Duration::from_secs(600);

/// What the kernel says at warning's level where its processor is emulated on a busy machine.
const EXCUSED: [&str; 4] = [
    "clocksource: timekeeping watchdog",
    "rcu: INFO: rcu_",
    "hogged CPU for",
    "perf: interrupt took",
];
/// The first and the last line of what it says of a container that takes more memory than it may, which cases provoke.
const KILLING: [&str; 2] = ["invoked oom-killer", "Memory cgroup out of memory"];

pub(crate) struct Host {
    pub(crate) release: Release,
    /// What the installer said.
    pub(crate) installed: Output,
    vm: Vm,
    /// How many lines of the kernel's are known.
    lines: usize,
}

impl Host {
    /// Boots it, installs, and has both engines read what the installer wrote.
    pub(crate) fn start(release: Release) -> Result<Self> {
        let mut vm = Vm::boot(release)?;
        let installed = vm.exec(
            "/vm/deploy/install.sh install --binary /vm/containerd-shim-sysbox-v2 --containerd --docker --sysctl
             systemctl restart containerd docker",
            DEADLINE,
        )?;
        let mut host = Self {
            release,
            installed,
            vm,
            lines: 0,
        };
        // A boot has its own.
        host.lines = host.complaints()?.len();
        Ok(host)
    }

    /// Runs a script as root; an exit code is no error.
    pub(crate) fn try_shell(&mut self, script: &str) -> Result<Output> {
        self.vm.exec(script, DEADLINE)
    }

    /// Runs a script as root, which must succeed: its output without white space around it.
    pub(crate) fn shell(&mut self, script: &str) -> Result<String> {
        Ok(self.try_shell(script)?.ok()?.text().to_owned())
    }

    /// The kernel's warnings so far.
    fn complaints(&mut self) -> Result<Vec<String>> {
        let log = self.shell("dmesg --notime --level=emerg,alert,crit,err,warn")?;
        let lines = log.lines().map(str::to_owned);
        Ok(lines.collect())
    }

    /// Fails where the kernel has complained since the last time.
    pub(crate) fn quiet(&mut self) -> Result<()> {
        let lines = self.complaints()?;
        let mut killing = false;
        let mut unexpected = Vec::new();
        for line in lines.get(self.lines..).unwrap_or_default() {
            killing |= line.contains(KILLING[0]);
            if !killing
                && !kernel_log::is_nobodys(line)
                && !EXCUSED.iter().any(|excused| line.contains(excused))
            {
                unexpected.push(line);
            }
            killing &= !line.contains(KILLING[1]);
        }
        self.lines = lines.len();
        ensure!(unexpected.is_empty(), "the kernel says: {unexpected:#?}");
        Ok(())
    }

    /// What its engines said last.
    pub(crate) fn log_tail(&mut self) -> String {
        let log = self.vm.exec(
            "journalctl --no-pager -o cat -u containerd -u docker | grep -v level=info | tail -n 20; dmesg | tail -n 5",
            Duration::from_secs(60),
        );
        log.map_or_else(|error| format!("{error:#}"), |log| log.stdout)
    }
}
