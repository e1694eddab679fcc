//! What a process takes over from whoever started it, and the container's processes would from containerd's service and from
//! whoever started that: a system administrator's shell, a unit with settings for the engine. The one place that says
//! what becomes of each:
//!
//! | of the engine's service | here | why |
//! |---|---|---|
//! | session keyring | new, in each stage; then that of the container, `_ses.<id>` | its keys are the host's and other pods'; thread and process keyrings are not inherited |
//! | timer slack | 50 µs | the kernel's own; the engine's would be the default of all below |
//! | policy, priority, nice value, time slice, bounds of utilization | the normal ones | meant for the engine; runc passes them on |
//! | I/O priority | none, or `process.ioPriority` | likewise |
//! | CPU affinity | every CPU that the cgroup has | `linux.resources.cpu.cpus` bounds a container; as runc since 1.2 |
//! | memory policy | the default | likewise; runc passes it on |
//! | huge pages off, pages merged | not | settings of the engine's memory; merging across pods tells what others have |
//! | machine checks: killed early | the host's default | meant for the engine |
//! | personality | Linux's own | else without random addresses, say; `linux.personality` is refused |
//! | core dump filter | core(5)'s | what is in a dump is the container's choice |
//! | login and session id of audit | unset | else all is done by the administrator who started the engine, and nobody can log in inside |
//! | OOM score adjustment | 0, or `process.oomScoreAdj` | engines protect themselves by -999 (`container::limits`) |
//! | dumpable | not, until the program is executed | nobody inside may look into a stage (CVE-2016-9962); set anew after each change of ids, which sets the host's `fs.suid_dumpable` |
//! | securebits, ambient and inheritable set, capabilities | those of a new user namespace | the kernel does (`set_cred_user_ns`, kernel/user_namespace.c) |
//! | death signal, pending signals, timers, locks | none | not inherited (fork(2)) |
//! | blocked and ignored signals | none | before execve(2), and std's spawn for hooks |
//! | umask, working directory, environment, cgroup, namespaces | the container's | each set by its own step |
//! | session, process group, terminal | its own | setsid(2) |
//! | descriptors | closed | by init as it begins, before any hook; all but a socket before execve(2), in whose midst root inside may list them |
//! | name | the program's | execve(2) |
//! | limits of resources | as they are, but for `process.rlimits` and higher hard limits of nofile and memlock | `container::limits` |
//! | no_new_privs | stays, a warning | cannot be undone |
//! | seccomp filters, Landlock, memory-deny-write-execute | stay | likewise; who confines the engine confines its containers |
//! | speculation control | stays | it is only ever stricter than the kernel's default |
//! | core scheduling cookie | stays | the host's choice of whom its engine shares a core with |

use std::ffi::CString;
use std::fs;
use std::io;
use std::num::NonZeroU64;

use rustix::process::{
    DumpableBehavior, set_dumpable_behavior, set_machine_check_memory_corruption_kill_policy,
};
use rustix::thread::{disable_transparent_huge_pages, no_new_privs, set_current_timer_slack};

use crate::error::{OsContext, Result, Warning};
use crate::sys::{keys, process};

/// Nanoseconds that the kernel gives its first process (init/init_task.c).
const TIMER_SLACK: NonZeroU64 = NonZeroU64::new(50_000).expect("not zero");
/// What core(5) has as default: private and shared anonymous memory, ELF headers, huge pages.
const CORE_DUMP_FILTER: &str = "0x33";
/// No login.
const UNSET: &str = "4294967295";
/// KEY_USR_SEARCH: a further process of the same user finds the keyring by its name.
const USER_MAY_SEARCH: u32 = 0x08_0000;

/// Nobody but the host's root may look into this process.
pub(super) fn hide() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).os("prctl", "not dumpable")
}

/// First thing in every stage, as the host's root: what it makes inherits from it. What could not be had is a warning.
pub(super) fn reset() -> Result<Vec<Warning>> {
    hide()?;
    match keys::join_session(None) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            return Err(error).os("keyctl", "new session keyring");
        }
        _ => {}
    }
    let mut warnings = Vec::new();
    let mut done = |what: &str, outcome: io::Result<()>| {
        let Err(error) = outcome else {
            return;
        };
        // A kernel that does not have it has none to hand on.
        if !matches!(
            error.raw_os_error(),
            Some(libc::ENOSYS | libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)
        ) {
            let text = format!("the {what} of the engine's service stays: {error}");
            warnings.push(Warning::new("process", text));
        }
    };
    done(
        "timer slack",
        set_current_timer_slack(Some(TIMER_SLACK)).map_err(Into::into),
    );
    done("scheduling policy", process::set_normal_scheduling());
    done("I/O priority", process::set_io_priority(0));
    done("memory policy", process::set_default_memory_policy());
    done(
        "setting of huge pages",
        disable_transparent_huge_pages(false).map_err(Into::into),
    );
    done("merging of pages", process::set_no_memory_merge());
    done(
        "policy for machine checks",
        set_machine_check_memory_corruption_kill_policy(None).map_err(Into::into),
    );
    done("personality", process::set_linux_personality());
    done(
        "core dump filter",
        fs::write("/proc/self/coredump_filter", CORE_DUMP_FILTER),
    );
    done("login id", leave_login());
    if no_new_privs().is_ok_and(|set| set) {
        let text = "no_new_privs of the engine's service stays: set-user-ID programs gain nothing inside; start the engine \
                    without NoNewPrivileges=";
        warnings.push(Warning::new("process.noNewPrivileges", text));
    }
    Ok(warnings)
}

/// Is no login any more; said only where it is one, for audit records each change.
fn leave_login() -> io::Result<()> {
    let file = "/proc/self/loginuid";
    if fs::read_to_string(file)? == UNSET {
        return Ok(());
    }
    fs::write(file, UNSET)
}

/// In a process that becomes a program of container `id`, as root inside and in its cgroup.
pub(super) fn reset_inside(id: &str) -> Result<()> {
    hide()?;
    // Without one, most of all where the pod has as many keys as it may, the stage's own stays, in which nothing is.
    let _ = join_keyring_of(id);
    process::set_every_cpu().os("sched_setaffinity", "every CPU")
}

/// The session keyring that the processes of a container share, named as runc names it.
fn join_keyring_of(id: &str) -> io::Result<()> {
    let name = CString::new(format!("_ses.{id}"))?;
    let key = keys::join_session(Some(&name))?;
    let text = keys::describe(key)?;
    let mut fields = text.split(';').skip(1);
    let owner = fields.next();
    let permissions = fields.nth(1).and_then(|p| u32::from_str_radix(p, 16).ok());
    match (owner, permissions) {
        (Some("0"), Some(permissions)) if permissions & USER_MAY_SEARCH != 0 => Ok(()),
        (Some("0"), Some(permissions)) => keys::set_permissions(key, permissions | USER_MAY_SEARCH),
        // Somebody inside who is not root has one of this name ready.
        _ => keys::join_session(None).map(drop),
    }
}
