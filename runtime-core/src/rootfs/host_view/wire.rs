//! What of fuse(4) the relay has to know (linux/fuse.h): the heads of requests and answers, and the handshake.

/// Length of the head of a request (`struct fuse_in_header`).
const REQUEST_HEAD: usize = 40;
/// Length of the head of an answer (`struct fuse_out_header`).
const ANSWER_HEAD: usize = 16;

/// Longest data that one request or answer carries; the kernel's own unless it is told otherwise.
const MAX_DATA: u32 = 128 << 10;
/// Longest message: a page more than its data (the kernel refuses to be read with less).
pub(super) const MAX_MESSAGE: usize = MAX_DATA as usize + 4096;

/// Requests of a kind that matters here.
pub(super) mod opcode {
    pub(in crate::rootfs::host_view) const FORGET: u32 = 2;
    pub(in crate::rootfs::host_view) const STATFS: u32 = 17;
    pub(in crate::rootfs::host_view) const INIT: u32 = 26;
    pub(in crate::rootfs::host_view) const INTERRUPT: u32 = 36;
    pub(in crate::rootfs::host_view) const BATCH_FORGET: u32 = 42;
}

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) opcode: u32,
    /// What the answer has to name.
    pub(super) unique: u64,
    pub(super) node: u64,
    /// Thread that asks, as this process sees it.
    pub(super) thread: u32,
}

impl Request {
    pub(super) fn head(message: &[u8]) -> Option<Request> {
        Some(Request {
            opcode: u32_at(message, 4)?,
            unique: u64_at(message, 8)?,
            node: u64_at(message, 16)?,
            thread: u32_at(message, 32)?,
        })
    }
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) unique: u64,
    /// 0, or a negative error number.
    pub(super) error: i32,
}

impl Answer {
    pub(super) fn head(message: &[u8]) -> Option<Answer> {
        Some(Answer {
            error: u32_at(message, 4)?.cast_signed(),
            unique: u64_at(message, 8)?,
        })
    }
}

/// The answer "failed with `errno`" to request `unique`.
pub(super) fn failure(unique: u64, errno: rustix::io::Errno) -> Vec<u8> {
    answer(unique, -errno.raw_os_error(), &[])
}

fn answer(unique: u64, error: i32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(ANSWER_HEAD + data.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(error.to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend(data);
    message
}

/// Answers the first request, by which the kernel and a server agree (`struct fuse_init_in`, `fuse_init_out`): version 7.31,
/// which is as old as all that the server uses.
pub(super) fn init_answer(unique: u64, request: &[u8]) -> Option<Vec<u8>> {
    const ASYNC_READ: u32 = 1;
    const BIG_WRITES: u32 = 1 << 5;
    let read_ahead = u32_at(request, REQUEST_HEAD + 8)?;
    let offered = u32_at(request, REQUEST_HEAD + 12)?;
    let mut data = Vec::new();
    for number in [7, 31, read_ahead, offered & (ASYNC_READ | BIG_WRITES)] {
        data.extend(number.to_ne_bytes());
    }
    // Requests that nobody waits for: how many at most, and how many until the kernel waits before it sends more.
    for number in [16_u16, 12] {
        data.extend(number.to_ne_bytes());
    }
    let granularity_of_times: u32 = 1;
    for number in [MAX_DATA, granularity_of_times] {
        data.extend(number.to_ne_bytes());
    }
    data.resize(64, 0);
    Some(answer(unique, 0, &data))
}

fn u32_at(message: &[u8], offset: usize) -> Option<u32> {
    let bytes = message.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn u64_at(message: &[u8], offset: usize) -> Option<u64> {
    let bytes = message.get(offset..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}
