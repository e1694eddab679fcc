//! Programs that make given system calls and nothing else, for what no library would call, and for i386, for which nothing is
//! built here. No compiler: they are a few bytes for each call.

/// Whose numbers, registers and instruction the calls use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit programs, by `syscall`.
    X86_64,
    /// 32-bit programs, by `int 0x80`.
    I386,
}

/// Number and up to six arguments. [`DATA`] is the address of the program's data.
#[derive(Debug, Clone, Copy)]
pub struct Call(pub u32, pub [u32; 6]);

/// Where a program finds the words that it was made with; [`DATA_SIZE`] bytes, zero beyond them.
pub const DATA: u32 = BASE + 0x10000;
/// How many bytes it has there.
pub const DATA_SIZE: u32 = 0x1000;

/// Where the file is mapped: all of it, readable, writable and executable.
const BASE: u32 = 0x40_0000;
/// Where a result is before it is written.
const RESULT: u32 = DATA + DATA_SIZE;

/// An ELF file that makes the calls, in order, and writes what each returned to standard output, 4 bytes each: the lower half,
/// which holds every error number.
#[must_use]
pub fn program(abi: Abi, calls: &[Call], data: &[u32]) -> Vec<u8> {
    let mut code = Vec::new();
    for call in calls {
        make(abi, call, &mut code);
        // mov [RESULT], eax
        let write = match abi {
            Abi::X86_64 => {
                code.extend([0x89, 0x04, 0x25]);
                1
            }
            Abi::I386 => {
                code.push(0xa3);
                4
            }
        };
        code.extend(RESULT.to_le_bytes());
        make(abi, &Call(write, [1, RESULT, 4, 0, 0, 0]), &mut code);
    }
    // exit(0)
    let exit = match abi {
        Abi::X86_64 => 60,
        Abi::I386 => 1,
    };
    make(abi, &Call(exit, [0; 6]), &mut code);
    let mut file = header(abi, RESULT + 4 - BASE);
    file.extend(code);
    file.resize((DATA - BASE) as usize, 0);
    file.extend(data.iter().flat_map(|word| word.to_le_bytes()));
    file
}

/// A filter for the shell of the busybox image: what a program writes, a number a line.
pub const SHOW: &str = r#"hexdump -v -e '1/4 "%d\n"'"#;

/// The registers' loads and the instruction.
fn make(abi: Abi, Call(number, arguments): &Call, code: &mut Vec<u8>) {
    // mov eax, number; then mov REGISTER, argument, 32 bits wide, which clears the upper half.
    code.push(0xb8);
    code.extend(number.to_le_bytes());
    let registers: [&[u8]; 6] = match abi {
        // edi, esi, edx, r10d, r8d, r9d
        Abi::X86_64 => [
            &[0xbf],
            &[0xbe],
            &[0xba],
            &[0x41, 0xba],
            &[0x41, 0xb8],
            &[0x41, 0xb9],
        ],
        // ebx, ecx, edx, esi, edi, ebp
        Abi::I386 => [&[0xbb], &[0xb9], &[0xba], &[0xbe], &[0xbf], &[0xbd]],
    };
    for (register, argument) in registers.into_iter().zip(arguments) {
        code.extend(register);
        code.extend(argument.to_le_bytes());
    }
    code.extend(match abi {
        Abi::X86_64 => [0x0f, 0x05],
        Abi::I386 => [0xcd, 0x80],
    });
}

/// ELF header and one program header (elf(5)): the whole file at [`BASE`], `size` bytes of memory; the code follows.
fn header(abi: Abi, size: u32) -> Vec<u8> {
    const EXECUTABLE: u16 = 2;
    const LOAD: u32 = 1;
    const READ_WRITE_EXECUTE: u32 = 7;
    let (class, machine, head, entry) = match abi {
        Abi::X86_64 => (2, 62_u16, 64_u16, 56_u16),
        Abi::I386 => (1, 3, 52, 32),
    };
    let word = |value: u32| match abi {
        Abi::X86_64 => u64::from(value).to_le_bytes().to_vec(),
        Abi::I386 => value.to_le_bytes().to_vec(),
    };
    let start = BASE + u32::from(head) + u32::from(entry);
    let mut file = vec![0x7f, b'E', b'L', b'F', class, 1, 1];
    file.resize(16, 0);
    file.extend([EXECUTABLE, machine].iter().flat_map(|v| v.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([start, u32::from(head), 0].into_iter().flat_map(word));
    file.extend(0_u32.to_le_bytes());
    file.extend(
        [head, entry, 1, 0, 0, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes()),
    );
    file.extend(LOAD.to_le_bytes());
    if abi == Abi::X86_64 {
        file.extend(READ_WRITE_EXECUTE.to_le_bytes());
    }
    // Offset, virtual and physical address, sizes in file and memory.
    let in_file = DATA + DATA_SIZE - BASE;
    file.extend([0, BASE, BASE, in_file, size].into_iter().flat_map(word));
    if abi == Abi::I386 {
        file.extend(READ_WRITE_EXECUTE.to_le_bytes());
    }
    file.extend(word(0x1000));
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_run_and_tell_what_their_calls_returned() {
        let dir = std::env::temp_dir().join(format!("calls-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("make a directory");
        // getppid; write to a descriptor that is not open.
        for (abi, calls) in [
            (
                Abi::X86_64,
                [Call(110, [0; 6]), Call(1, [99, DATA, 1, 0, 0, 0])],
            ),
            (
                Abi::I386,
                [Call(64, [0; 6]), Call(4, [99, DATA, 1, 0, 0, 0])],
            ),
        ] {
            let path = dir.join(format!("{abi:?}"));
            std::fs::write(&path, program(abi, &calls, &[1, 2])).expect("write it");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
            let output = Command::new(&path).output().expect("run it");
            assert!(output.status.success(), "{output:?}");
            let (results, rest) = output.stdout.as_chunks::<4>();
            let results: Vec<i32> = results.iter().map(|r| i32::from_le_bytes(*r)).collect();
            let parent = i32::try_from(std::process::id()).expect("a pid");
            assert_eq!((results, rest), (vec![parent, -9], &[][..]), "{abi:?}");
        }
        std::fs::remove_dir_all(dir).expect("remove it");
    }
}
