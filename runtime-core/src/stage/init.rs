//! C: container init until it becomes the user's program.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::unlocked::Staged;
use super::{Steps, inherited, security};
use crate::error::{OsContext, Result, StageFailure};
use crate::plan::{Hook, NsSource};
use crate::stage::Step;
use crate::stage::hooks::{self, HookState, Status};
use crate::stage::proto::{Channel, InitRequest, Message};
use crate::sys::clone::exit;
use crate::sys::fd::with_only;

/// The slave that S bound on /dev/console: the first of the container's own devpts. Opened by this name,
/// it is the one that ttyname(3) tells.
const FIRST_TERMINAL: &str = "/dev/pts/0";

/// Between S and C.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Go {
    /// Run the createContainer hooks; answered in kind.
    Hooks,
    /// All mounts are made, and staged.
    Staged(Staged),
    /// C → S: a hook failed.
    Failed(StageFailure),
}

/// What init takes along from S.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) channel: &'a Channel,
    pub(super) go: Channel,
    pub(super) steps: &'a Steps,
    pub(super) request: &'a InitRequest,
    pub(super) stdio: &'a [Option<OwnedFd>; 3],
}

impl Init<'_> {
    /// Becomes the user's program, or reports why not and ends.
    pub(super) fn run(self) -> ! {
        // What S has open is none of a hook's: see `security::Program::exec`.
        let mut kept = vec![self.channel.as_fd(), self.go.as_fd()];
        kept.extend(self.stdio.iter().flatten().map(AsFd::as_fd));
        with_only(&kept, |closed| {
            let Err(failure) = self.pipeline(closed);
            if let Some(failure) = failure {
                let _ = self.channel.send(&Message::Failed(failure));
            }
            exit(1)
        })
    }

    /// The error is `None` where S or L is gone and nobody wants to know.
    fn pipeline(&self, closed: io::Result<()>) -> Result<Infallible, Option<StageFailure>> {
        let (steps, plan) = (self.steps, &self.request.plan);
        let _ = rustix::thread::set_name(c"sysbox:[init]");
        // Before any hook, and while S makes the mounts.
        steps.run(Step::Setup, || {
            closed.os("close_range", "what init does not need")?;
            inherited::reset_inside(&self.request.id)
        })?;
        steps.run(Step::BaseFilter, || security::base_filter(&plan.process))?;
        let staged = self.wait_for_root()?;
        steps.run(Step::Lock, || self.lock_mounts(&staged))?;
        steps.run(Step::Setup, || {
            self.host_name()?;
            security::new_session(plan.process.terminal.then_some(FIRST_TERMINAL), self.stdio)?;
            security::make_cwd(&plan.process)
        })?;
        let program = steps.run(Step::Setup, || security::Program::new(&plan.process))?;
        match self
            .channel
            .send(&Message::Ready {
                times: steps.take_times(),
            })
            .and_then(|()| self.channel.recv::<Message>())
        {
            Ok(Some((Message::Start, _))) => {}
            _ => return Err(None),
        }
        steps.run(Step::Hooks, || {
            self.run_hooks(
                "startContainer",
                &plan.hooks.start_container,
                Status::Created,
            )
        })?;
        steps.run(Step::Security, || security::drop_privileges(&plan.process))?;
        program.exec(self.channel, steps)
    }

    fn wait_for_root(&self) -> Result<Staged, Option<StageFailure>> {
        let (steps, request) = (self.steps, self.request);
        let mut word = self.hear()?;
        loop {
            match word {
                Go::Staged(staged) => return Ok(staged),
                Go::Hooks => {
                    let hooks = &request.plan.hooks.create_container;
                    let done = steps.run(Step::Hooks, || {
                        self.run_hooks("createContainer", hooks, Status::Creating)
                    });
                    let answer = match done {
                        Ok(()) => Go::Hooks,
                        Err(failure) => Go::Failed(failure),
                    };
                    self.go.send(&answer).map_err(|_| None)?;
                    word = self.hear()?;
                }
                Go::Failed(_) => return Err(None),
            }
        }
    }

    /// What S says next; where it is gone nobody wants to know why.
    fn hear(&self) -> Result<Go, Option<StageFailure>> {
        match self.go.recv::<Go>() {
            Ok(Some((word, _))) => Ok(word),
            _ => Err(None),
        }
    }

    fn run_hooks(&self, kind: &str, hooks: &[Hook], status: Status) -> Result<()> {
        let bundle = Path::new(&self.request.bundle);
        let pid = Some(std::process::id());
        let state = HookState::new(
            &self.request.id,
            status,
            pid,
            bundle,
            &self.request.plan.annotations,
        );
        hooks::run(kind, hooks, &state, Path::new("/"))
    }

    /// The copy of the mounts is owned by our user namespace, less privileged than the one they were made in: the kernel
    /// locks them all (see `unlocked`). What is mounted from here on is not locked.
    fn lock_mounts(&self, staged: &Staged) -> Result<()> {
        rustix::process::chdir("/").os("chdir", "/")?;
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).os("unshare", "mount namespace")?;
        staged.enter(self.request.plan.rootfs.propagation)?;
        rustix::process::chdir("/").os("chdir", "/")?;
        for path in ["/sys/kernel/debug", "/sys/kernel/tracing"] {
            // systemd's units for them see a mount and do not fail; unlocked, so that engines that
            // unmount everything below /sys/kernel can (whole.md 2).
            let flags =
                MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            match mount("tmpfs", path, "tmpfs", flags, c"mode=0555,size=4k") {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno).os("mount tmpfs on", path),
            }
        }
        Ok(())
    }

    fn host_name(&self) -> Result<()> {
        let plan = &self.request.plan;
        if plan.namespaces.uts != NsSource::New {
            return Ok(());
        }
        if let Some(name) = &plan.hostname {
            rustix::system::sethostname(name.as_bytes()).os("sethostname", name)?;
        }
        if let Some(name) = &plan.domainname {
            rustix::system::setdomainname(name.as_bytes()).os("setdomainname", name)?;
        }
        Ok(())
    }
}

/// /dev/null of the container, for streams that nobody gave.
pub(super) fn null() -> Result<OwnedFd> {
    openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", "/dev/null")
}
