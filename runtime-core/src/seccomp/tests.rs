//! Programs are run, not read: a small interpreter of the classic BPF that seccomp(2) takes.

use super::assembler::op;
use super::*;

pub(super) const X86_64: u32 = 0xc000_003e;
pub(super) const I386: u32 = 0x4000_0003;
pub(super) const AARCH64: u32 = 0xc000_00b7;
pub(super) const X32_BIT: u32 = 0x4000_0000;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// The answer of `program` to a system call.
pub(super) fn run(program: &SeccompProgram, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    // struct seccomp_data: nr, arch, instruction_pointer, args.
    let mut data = vec![number, arch, 0, 0];
    for arg in args {
        data.extend([arg as u32, (arg >> 32) as u32]);
    }
    let code: Vec<Instruction> = program
        .filter
        .chunks_exact(8)
        .map(|c| Instruction::from_bytes(c.try_into().unwrap()))
        .collect();
    let (mut a, mut pc) = (0_u32, 0_usize);
    loop {
        let i = code[pc];
        pc += 1;
        let jump = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            op::LOAD => a = data[usize::try_from(i.k).unwrap() / 4],
            op::AND => a &= i.k,
            op::JUMP => pc += usize::try_from(i.k).unwrap(),
            op::EQUAL => pc += jump(a == i.k),
            op::GREATER => pc += jump(a > i.k),
            op::AT_LEAST => pc += jump(a >= i.k),
            op::SET => pc += jump(a & i.k != 0),
            op::RETURN => return i.k,
            other => panic!("opcode {other:#x} at {}", pc - 1),
        }
    }
}

fn compiled(json: &str) -> (SeccompProgram, Vec<Warning>) {
    compile(&serde_json::from_str(json).unwrap(), None).unwrap()
}

/// In the manner of an engine's default profile, of the time of Linux 5.11 (epoll_pwait2, 441).
const ENGINE: &str = r#"{
  "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  "syscalls": [
    {"names": ["read", "write", "socketcall", "epoll_pwait2", "io_uring_setup", "no_such_call"],
     "action": "SCMP_ACT_ALLOW"},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    {"names": ["ioperm"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]}
  ]}"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn an_engines_profile_is_widened() {
    let (program, warnings) = compiled(ENGINE);
    assert_eq!(warnings, []);
    let plain = |number| run(&program, X86_64, number, [0; 6]);
    for (name, number) in [
        ("read", 0),
        ("mount", 165),
        ("umount2", 166),
        ("pivot_root", 155),
        ("sethostname", 170),
        ("setdomainname", 171),
        ("reboot", 169),
        ("unshare", 272),
        ("setns", 308),
        ("keyctl", 250),
        ("clone3", 435),
        ("open_tree", 428),
        ("move_mount", 429),
        ("fsopen", 430),
        ("fsconfig", 431),
        ("fsmount", 432),
        ("fspick", 433),
        ("pidfd_getfd", 438),
        ("mount_setattr", 442),
        ("landlock_create_ruleset", 444),
        ("set_mempolicy_home_node", 450),
        ("cachestat", 451),
        ("statmount", 457),
        ("listmount", 458),
        ("open_tree_attr", 467),
        ("listns", 470),
        ("io_uring_setup", 425),
    ] {
        assert_eq!(plain(number), ALLOW, "{name}");
    }
    // clone with all of CLONE_NEW*: the filter of arguments is gone.
    assert_eq!(
        run(&program, X86_64, 56, [0x7e02_0000, 0, 0, 0, 0, 0]),
        ALLOW
    );
    // Power over the host alone stays with the profile.
    for (name, number) in [
        ("init_module", 175),
        ("swapon", 167),
        ("settimeofday", 164),
        ("bpf", 321),
        ("perf_event_open", 298),
        ("userfaultfd", 323),
        ("kexec_load", 246),
        ("open_by_handle_at", 304),
        ("io_uring_enter", 426),
    ] {
        assert_eq!(plain(number), EPERM, "{name}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn filters_of_arguments_stay_on_personality_and_socket_and_on_what_is_not_widened() {
    let (program, _) = compiled(ENGINE);
    let first = |number, value| run(&program, X86_64, number, [value, 0, 0, 0, 0, 0]);
    assert_eq!(first(135, 8), ALLOW);
    assert_eq!(first(135, 9), EPERM);
    assert_eq!(first(41, 2), ALLOW);
    assert_eq!(first(41, 40), EPERM);
    assert_eq!(run(&program, X86_64, 173, [0, 7, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, X86_64, 173, [0, 8, 0, 0, 0, 0]), EPERM);
    // Not named by a profile: allowed.
    let (program, _) = compiled(r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}"#);
    assert_eq!(run(&program, X86_64, 135, [9, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, X86_64, 41, [40, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_newer_than_the_profile_does_not_exist() {
    let (program, _) = compiled(ENGINE);
    let plain = |number| run(&program, X86_64, number, [0; 6]);
    // quotactl_fd, newer than the profile and not widened; numbers that no kernel has yet.
    for number in [443, 471, 500, 511] {
        assert_eq!(plain(number), ENOSYS, "{number}");
    }
    // Up to the last that the profile knows, its own answer holds.
    assert_eq!(plain(427), EPERM);
    assert_eq!(plain(512), EPERM);
    // A profile that knows no generic number at all.
    let (old, _) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
            [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(run(&old, X86_64, 425, [0; 6]), ENOSYS);
    assert_eq!(run(&old, X86_64, 442, [0; 6]), ALLOW);
    assert_eq!(run(&old, X86_64, 175, [0; 6]), EPERM);
    // One that allows by default never answers so.
    let (open, _) = compiled(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    assert_eq!(run(&open, X86_64, 500, [0; 6]), ALLOW);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_architecture_is_filtered_and_unlisted_ones_are_killed() {
    let (program, _) = compiled(ENGINE);
    // i386: mount 21, umount 22, init_module 128, move_mount and what is newer by the common numbers.
    for (number, answer) in [
        (21, ALLOW),
        (22, ALLOW),
        (128, EPERM),
        (102, ALLOW),
        (429, ALLOW),
        (457, ALLOW),
        (471, ENOSYS),
        (512, EPERM),
    ] {
        assert_eq!(run(&program, I386, number, [0; 6]), answer, "{number}");
    }
    // x32: mount 165, statmount 457, execve 520, one of its own.
    for (number, answer) in [(165, ALLOW), (457, ALLOW), (471, ENOSYS), (520, ALLOW)] {
        let x32 = number | X32_BIT;
        assert_eq!(run(&program, X86_64, x32, [0; 6]), answer, "{number}");
    }
    assert_eq!(run(&program, AARCH64, 0, [0; 6]), KILL);
    assert_eq!(run(&program, AARCH64, 471, [0; 6]), KILL);
    // Native alone: i386 and x32 are foreign.
    let (native, _) = compiled(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    assert_eq!(run(&native, I386, 4, [0; 6]), KILL);
    assert_eq!(run(&native, X86_64, 1 | X32_BIT, [0; 6]), KILL);
    assert_eq!(run(&native, X86_64, 457 | X32_BIT, [0; 6]), KILL);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_profile_that_allows_by_default_is_taken_as_it_is() {
    let (program, warnings) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
             {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
             {"names": ["mseal"], "action": "SCMP_ACT_KILL_PROCESS"},
             {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(run(&program, X86_64, 165, [0; 6]), 0x0005_000d);
    assert_eq!(run(&program, X86_64, 462, [0; 6]), 0x8000_0000);
    assert_eq!(run(&program, X86_64, 0, [0; 6]), ALLOW);
    let fields: Vec<&str> = warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["linux.seccomp.syscalls[2].names"]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rules_against_what_is_needed_are_dropped_with_a_warning() {
    let (program, warnings) = compiled(
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
             {"names": ["mount", "clone3"], "action": "SCMP_ACT_ERRNO"},
             {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    );
    assert_eq!(run(&program, X86_64, 165, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, 435, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, 167, [0; 6]), 0x0005_000d);
    assert_eq!(run(&program, X86_64, 175, [0; 6]), 0x8000_0000);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.starts_with("mount allowed although"));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rules_that_say_nothing_new_or_too_much() {
    // One that repeats the default, one whose conditions could deny, two that disagree.
    let (program, warnings) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_NATIVE"], "syscalls": [
             {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
             {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
              "args": [{"index": 3, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&program, X86_64, 167, [0; 6]), EPERM);
    assert_eq!(run(&program, X86_64, 165, [0, 0, 0, 1, 0, 0]), ALLOW);
    let fields: Vec<&str> = warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["linux.seccomp.syscalls"]);
    let (program, warnings) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
             {"names": ["listns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
             {"names": ["listns"], "action": "SCMP_ACT_KILL"}]}"#,
    );
    assert_eq!(run(&program, X86_64, 470, [0; 6]), 0x0005_000d);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.contains("only the first holds"));
}

#[test]
fn a_program_longer_than_the_kernel_takes_is_refused() {
    let rules: Vec<String> = (0..3900)
        .map(|i| {
            format!(
                r#"{{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                     "args": [{{"index": 0, "value": {i}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let profile = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#,
        rules.join(",")
    );
    let compiled = compile(&serde_json::from_str(&profile).unwrap(), None);
    let error = compiled.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.starts_with("linux.seccomp: a program of "), "{error}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn conditions_on_one_argument_are_alternatives() {
    let (program, _) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
             {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
               {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
               {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    for (value, answer) in [(0, ALLOW), (8, ALLOW), (9, EPERM)] {
        assert_eq!(run(&program, X86_64, 135, [value, 0, 0, 0, 0, 0]), answer);
    }
}

#[test]
fn flags_of_the_profile() {
    for (json, flags) in [
        (r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, 4),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}"#, 0),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags":
                ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}"#,
            3,
        ),
    ] {
        assert_eq!(compiled(json).0.flags, flags);
    }
}

#[test]
fn every_name_of_the_list_is_known_and_listed_once() {
    let mut seen = std::collections::HashSet::new();
    for name in syscalls::system_container().chain(syscalls::FILTERED) {
        assert!(seen.insert(name), "{name} twice");
        let newer = syscalls::NEWER.iter().any(|(other, _)| *other == name);
        assert!(newer || ScmpSyscall::from_name(name).is_ok(), "{name}");
    }
}

#[test]
fn a_program_is_kept_and_found_again_by_what_it_was_made_from() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("a/seccomp");
    let profile = serde_json::from_str(ENGINE).unwrap();
    let files = || std::fs::read_dir(&dir).map_or(0, |entries| entries.count());
    let through = || compile(&profile, Some(&dir)).unwrap();
    let plain = compile(&profile, None).unwrap();
    assert_eq!(through(), plain);
    assert_eq!(files(), 1);
    assert_eq!(through(), plain);
    assert_eq!(files(), 1);
    // Another profile has another entry.
    let other = serde_json::from_str(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    let open = compile(&other, Some(&dir)).unwrap();
    assert_eq!(open, compile(&other, None).unwrap());
    assert_eq!(files(), 2);

    let replace = |with: &dyn Fn(&[u8]) -> Vec<u8>| {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            std::fs::write(&path, with(&std::fs::read(&path).unwrap())).unwrap();
        }
    };
    // It is the entry that counts: its first instruction replaced by "return errno 7".
    let marked = Instruction {
        code: op::RETURN,
        jt: 0,
        jf: 0,
        k: 0x0005_0007,
    };
    replace(&|bytes| [&marked.to_bytes(), &bytes[8..]].concat());
    assert_eq!(run(&through().0, X86_64, 0, [0; 6]), 0x0005_0007);
    // One that is not whole is none, and neither is one in a directory that others may enter.
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(through(), plain);
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    replace(&|bytes| bytes[..bytes.len() - 3].to_vec());
    assert_eq!(through(), plain);
    assert_eq!(through(), plain);
    // A full directory takes no more.
    let full = state.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::set_permissions(&full, PermissionsExt::from_mode(0o700)).unwrap();
    for i in 0..256 {
        std::fs::write(full.join(i.to_string()), "").unwrap();
    }
    assert_eq!(compile(&profile, Some(&full)).unwrap(), plain);
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 256);
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing_but_time() {
    let profile = serde_json::from_str(ENGINE).unwrap();
    let nowhere = std::path::Path::new("/proc/self/no");
    let plain = compile(&profile, None).unwrap();
    assert_eq!(compile(&profile, Some(nowhere)).unwrap(), plain);
}

#[test]
fn the_kernel_takes_the_program_and_answers_by_it() {
    let (program, _) = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 123,
            "syscalls": [{"names": ["cachestat"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    // A filter holds for the thread that installs it.
    let thread = std::thread::Builder::new().spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        crate::sys::seccomp::install(&program.filter, program.flags).unwrap();
        let module = rustix::system::delete_module(c"no-such-module", 0);
        let file = std::fs::metadata("/").is_ok();
        (module.map_err(|e| e.raw_os_error()), file)
    });
    let (module, file) = thread.unwrap().join().unwrap();
    assert_eq!(module, Err(123));
    assert!(file);
}
