//! Doors for `fuzz/` to what is private, in builds with `--cfg fuzzing` only.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::{Channel, ExecStageRequest, InitRequest, Message};

/// Any bytes as a message between shim and stage: an error, or a message that arrives again as it was sent.
pub fn stage_message(bytes: &[u8]) {
    let Ok((ours, theirs)) = Channel::pair() else {
        return;
    };
    // Empty is end of file to the receiver; a larger one than the socket takes cannot arrive.
    if bytes.is_empty() || rustix::io::write(&ours, bytes).is_err() {
        return;
    }
    let Ok(Some((message, _))) = theirs.recv::<Message>() else {
        return;
    };
    ours.send(&message).expect("what was received can be sent");
    let (again, _) = theirs
        .recv::<Message>()
        .expect("and arrives")
        .expect("before the end");
    assert_eq!(json(&again), json(&message));
}

/// Any bytes as what a stage is asked.
pub fn stage_request(bytes: &[u8]) {
    read_again::<InitRequest>(bytes);
    read_again::<ExecStageRequest>(bytes);
}

fn read_again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<T>(bytes) {
        let sent = json(&request);
        let read: T = serde_json::from_str(&sent).expect("what is sent can be read");
        assert_eq!(json(&read), sent);
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("messages are JSON")
}
