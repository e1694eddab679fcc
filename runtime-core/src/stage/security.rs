//! The last steps of every process that becomes a user's: session, credentials, capabilities,
//! seccomp, exec. Same for init and for exec'd processes.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capability_is_in_bounding_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::{Steps, inherited, init, limits};
use crate::error::{Error, OsContext, Result};
use crate::plan::Process;
use crate::seccomp::base;
use crate::stage::Step;
use crate::stage::proto::{Channel, Message};
use crate::sys;

/// Longest /etc/passwd that is searched for a home directory.
const MAX_PASSWD: u64 = 1 << 20;

/// A session of its own with these standard streams: a terminal's slave at path `terminal`, or
/// `stdio`, with /dev/null for what is missing.
pub(super) fn new_session(terminal: Option<&str>, stdio: &[Option<OwnedFd>; 3]) -> Result<()> {
    rustix::process::setsid().os("setsid", "")?;
    match terminal {
        Some(path) => {
            let slave = openat(
                CWD,
                path,
                OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .os("open", path)?;
            control(slave.as_fd())
        }
        None => {
            let null = if stdio.iter().any(Option::is_none) {
                Some(init::null()?)
            } else {
                None
            };
            let stream = |index: usize| stdio[index].as_ref().or(null.as_ref()).map(AsFd::as_fd);
            if let (Some(stdin), Some(stdout), Some(stderr)) = (stream(0), stream(1), stream(2)) {
                rustix::stdio::dup2_stdin(stdin).os("dup2", "stdin")?;
                rustix::stdio::dup2_stdout(stdout).os("dup2", "stdout")?;
                rustix::stdio::dup2_stderr(stderr).os("dup2", "stderr")?;
            }
            Ok(())
        }
    }
}

/// Makes `slave` the controlling terminal and the standard streams.
pub(super) fn control(slave: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).os("TIOCSCTTY", "terminal")?;
    rustix::stdio::dup2_stdin(slave).os("dup2", "stdin")?;
    rustix::stdio::dup2_stdout(slave).os("dup2", "stdout")?;
    rustix::stdio::dup2_stderr(slave).os("dup2", "stderr")
}

/// Makes the working directory if the image lacks it, as root inside.
pub(super) fn make_cwd(process: &Process) -> Result<()> {
    match std::fs::create_dir_all(&process.cwd) {
        // Whatever is wrong with it, chdir says so with the user's own rights.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The filter that holds for all that this process becomes and starts, hooks too.
pub(super) fn base_filter(process: &Process) -> Result<()> {
    let program = base::program(&process.unbarred);
    sys::seccomp::install(&program.filter, program.flags).os("seccomp", "base filter")
}

/// Becomes the user: limits, ids, capabilities, seccomp.
pub(super) fn drop_privileges(process: &Process) -> Result<()> {
    limits::apply(&process.rlimits)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    if let Some(value) = process.io_priority {
        sys::process::set_io_priority(value).os("ioprio_set", value)?;
    }
    let seccomp = || match &process.seccomp {
        Some(program) => {
            sys::seccomp::install(&program.filter, program.flags).os("seccomp", "filter")
        }
        None => Ok(()),
    };
    if !process.no_new_privs {
        // Needs CAP_SYS_ADMIN in the user namespace, which may be dropped below.
        seccomp()?;
    }
    let capabilities = &process.capabilities;
    bounding(capabilities.bounding)?;
    set_keep_capabilities(true).os("prctl", "keepcaps")?;
    let groups: Vec<_> = process.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    set_thread_groups(&groups).os("setgroups", format!("{:?}", process.groups))?;
    let gid = Gid::from_raw(process.gid);
    set_thread_res_gid(gid, gid, gid).os("setresgid", process.gid)?;
    let uid = Uid::from_raw(process.uid);
    set_thread_res_uid(uid, uid, uid).os("setresuid", process.uid)?;
    inherited::hide()?;
    set_keep_capabilities(false).os("prctl", "keepcaps")?;
    let set = CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: set(capabilities.effective),
        permitted: set(capabilities.permitted),
        inheritable: set(capabilities.inheritable),
    };
    set_capabilities(None, sets).os("capset", format!("{capabilities:x?}"))?;
    for capability in bits(capabilities.ambient) {
        configure_capability_in_ambient_set(capability, true)
            .os("raise ambient", format!("{capability:?}"))?;
    }
    change_directory(&process.cwd)?;
    if process.no_new_privs {
        set_no_new_privs(true).os("prctl", "no_new_privs")?;
        seccomp()?;
    }
    Ok(())
}

/// Takes all but `kept` out of the bounding set.
pub(super) fn bounding(kept: u64) -> Result<()> {
    for capability in bits(!kept) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)
                .os("drop bounding", format!("{capability:?}"))?,
            Ok(false) => {}
            // Beyond the kernel's last capability.
            Err(_) => break,
        }
    }
    Ok(())
}

fn bits(mask: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..64)
        .map(|bit| 1 << bit)
        .filter(move |bit| mask & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}

/// chdir(2) that cannot lead out of the root by a descriptor of ours (CVE-2024-21626): the kernel
/// says where we are, and says so if that is outside.
fn change_directory(cwd: &str) -> Result<()> {
    rustix::process::chdir(cwd).os("chdir", format!("process.cwd {cwd}"))?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Error::invalid(
            "process.cwd",
            cwd,
            "is outside the root file system: choose a directory inside",
        )),
    }
}

/// A program with its arguments and environment, ready for execve(2).
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks the program up in PATH of `process`; must exist for root inside, at least.
    pub(super) fn new(process: &Process) -> Result<Program> {
        let name = process.args.first().cloned().unwrap_or_default();
        let strings = |list: &[String]| {
            list.iter()
                .map(|s| CString::new(s.as_str()))
                .collect::<Result<Vec<_>, NulError>>()
        };
        let encode = |list: &[String]| {
            strings(list)
                .map_err(std::io::Error::from)
                .os("encode", "process")
        };
        let mut env = process.env.clone();
        if !env.iter().any(|v| v.starts_with("HOME=")) {
            env.push(format!("HOME={}", home(process.uid)));
        }
        let candidates = candidates(&name, &process.env);
        if candidates.iter().any(|path| is_systemd(path))
            && !env.iter().any(|v| v.starts_with("container="))
        {
            env.push("container=oci".into());
        }
        let program = Program {
            candidates: encode(&candidates)?,
            args: encode(&process.args)?,
            env: encode(&env)?,
            name,
        };
        let found = |path: &CString| {
            rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXISTS).is_ok()
        };
        if program.candidates.iter().any(found)
            || program.name.starts_with('/') && program.relative_to_link()
        {
            Ok(program)
        } else {
            Err(program.missing())
        }
    }

    /// A link like /proc/self/exe resolves for the process itself only.
    fn relative_to_link(&self) -> bool {
        self.name.starts_with("/proc/")
    }

    /// Becomes the program, or tells `channel` why not and ends.
    ///
    /// From here on nothing but that is open, and the standard streams: in the midst of execve(2), when the process has the
    /// program's memory already, root inside may list and open its descriptors (fs/exec.c, exec_mmap() to do_close_on_exec()).
    /// Nobody can open a socket by its name in /proc, and pidfd_getfd(2) waits until execve(2) is through.
    pub(super) fn exec(&self, channel: &Channel, steps: &Steps) -> ! {
        sys::fd::with_only(&[channel.as_fd()], |closed| {
            let Err(failure) = steps.last(Step::Exec, || {
                closed.os("close_range", "all")?;
                self.execute()
            });
            // The shim may be gone; then nobody is there to be told.
            let _ = channel.send(&Message::Failed(failure));
            sys::clone::exit(1)
        })
    }

    fn execute(&self) -> Result<Infallible> {
        sys::signal::reset().os("reset", "signals")?;
        let mut denied = None;
        for path in &self.candidates {
            match nix::unistd::execve(path, &self.args, &self.env) {
                Ok(never) => return Ok(never),
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
                Err(nix::Error::EACCES) => denied = Some(nix::Error::EACCES),
                Err(errno) => return Err(errno).os("exec", path.to_string_lossy()),
            }
        }
        match denied {
            Some(errno) => Err(errno).os("exec", &self.name),
            None => Err(self.missing()),
        }
    }

    fn missing(&self) -> Error {
        // runc's words, which clients know to mean exit status 127.
        let what = if self.name.contains('/') {
            "no such file or directory"
        } else {
            "executable file not found in $PATH"
        };
        Error::Os {
            op: "exec process.args[0]:",
            target: format!("exec: {:?}: {what}", self.name),
            source: Errno::NOENT.into(),
        }
    }
}

/// Whether `path` is systemd or a link to it (`/sbin/init`). It wants to be told that it runs in a
/// container (systemd.io/CONTAINER_INTERFACE).
fn is_systemd(path: &str) -> bool {
    let init = path.ends_with("/init") || path.ends_with("/systemd");
    init && std::fs::canonicalize(path).is_ok_and(|real| real.ends_with("systemd/systemd"))
}

/// Paths to try, as execvp(3) does with the process's own PATH.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_string()];
    }
    let path = env
        .iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| format!("{dir}/{name}"))
        .collect()
}

/// Home directory of `uid` by the image's /etc/passwd, `/` if it does not say.
fn home(uid: u32) -> String {
    let open = || {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(openat(CWD, "/etc/passwd", flags, Mode::empty()).ok()?);
        let mut text = Vec::new();
        if file.metadata().ok()?.is_file() {
            file.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
        }
        home_in(&String::from_utf8_lossy(&text), uid)
    };
    open().unwrap_or_else(|| "/".into())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let home = fields.get(5).filter(|home| home.starts_with('/'))?;
        (fields.get(2)?.parse() == Ok(uid)).then(|| (*home).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_comes_from_the_sixth_field() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nu:x:1000:1000::/home/u:/bin/sh\n";
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd, 7), None);
    }

    #[test]
    fn path_is_the_process_own() {
        let env = vec!["A=b".to_string(), "PATH=/x::/y".to_string()];
        assert_eq!(candidates("ls", &env), ["/x/ls", "/y/ls"]);
        assert_eq!(candidates("./ls", &env), ["./ls"]);
    }
}
