"""Runs a command with every attribute odd that a process can hand on: odd.py WORDS…

On the machine of the tests, outside the node: what a service manager or an administrator's shell might have set."""
import ctypes, os, resource, signal, struct, sys

libc = ctypes.CDLL(None, use_errno=True)


def call(what, number, *words):
    if libc.syscall(number, *words) < 0:
        sys.exit(f"odd: {what}: {os.strerror(ctypes.get_errno())}")


machine = os.uname().machine
if machine == "x86_64":
    PRCTL, KEYCTL, ADD_KEY, PERSONALITY, SCHED_SETATTR, SET_MEMPOLICY, IOPRIO_SET, CAPSET = 157, 250, 248, 135, 314, 238, 251, 126
elif machine == "aarch64":
    PRCTL, KEYCTL, ADD_KEY, PERSONALITY, SCHED_SETATTR, SET_MEMPOLICY, IOPRIO_SET, CAPSET = 167, 219, 217, 92, 274, 237, 30, 91
else:
    sys.exit("odd: system calls of " + machine)


def prctl(what, *words):
    call(what, PRCTL, *words, *[0] * (5 - len(words)))


call("join a keyring", KEYCTL, 1, b"engine")
call("add a key", ADD_KEY, b"user", b"of-the-engine", b"secret", 6, -3)
prctl("timer slack", 29, 777777)
call("policy", SCHED_SETATTR, 0, struct.pack("IIQiIQQQ", 48, 3, 0, -1, 0, 0, 0, 0), 0)
call("I/O priority", IOPRIO_SET, 1, 0, 2 << 13 | 1)
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
call("memory policy", SET_MEMPOLICY, 2, ctypes.byref(ctypes.c_ulong(1)), 64)
prctl("huge pages", 41, 1)
libc.syscall(PRCTL, 67, 1, 0, 0, 0)  # Linux 6.4
prctl("machine checks", 33, 1, 1)
call("personality", PERSONALITY, 0x0040000)
open("/proc/self/coredump_filter", "w").write("0x1")
if os.path.exists("/proc/self/loginuid"):
    open("/proc/self/loginuid", "w").write("4242")
open("/proc/self/oom_score_adj", "w").write("77")
prctl("death signal", 1, signal.SIGWINCH)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.umask(0o027)
os.environ["OF_THE_ENGINE"] = "1"
os.set_inheritable(os.dup2(os.open("/", os.O_RDONLY), 17), True)
soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft // 2, hard))
# CAP_CHOWN inheritable and ambient; then no raising of ambient capabilities any more, and that locked.
held = {line.split()[0]: int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("Cap")}
prm, eff = held["CapPrm:"], held["CapEff:"]
data = struct.pack("6I", eff & 0xFFFFFFFF, prm & 0xFFFFFFFF, 1, eff >> 32, prm >> 32, 0)
call("capset", CAPSET, struct.pack("Ii", 0x20080522, 0), data)
prctl("ambient", 47, 2, 0)
prctl("securebits", 28, 0xC0)
os.execvp(sys.argv[1], sys.argv[1:])
