//! D-Bus messages, as far as systemd's manager asks for them (D-Bus Specification, "Type system", "Message protocol").
//!
//! Messages are in this machine's byte order, as systemd's answers are: both ends are on it.

/// Longest message that is read: a signal of systemd's has some kilobytes.
const MAX_LEN: usize = 1 << 24;
/// Length of what every message begins with.
pub(super) const FIXED: usize = 16;

const ORDER: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};

/// A property of a unit and its value, of the type that systemd has for it (org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Property {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its value.
    pub(crate) value: Value,
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `ay`
    Bytes(Vec<u8>),
    /// `au`
    Pids(Vec<u32>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
    /// `a(st)`
    Numbers(Vec<(String, u64)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::Number(_) => "t",
            Value::Text(_) => "s",
            Value::Bytes(_) => "ay",
            Value::Pids(_) => "au",
            Value::Pairs(_) => "a(ss)",
            Value::Numbers(_) => "a(st)",
        }
    }
}

/// A message, or a part of one that begins at a multiple of 8, growing.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_ne_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.u32(len(value.len()));
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, value: &str) {
        self.0.push(value.len().try_into().unwrap_or(u8::MAX));
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    /// An array of `items`, whose elements begin at multiples of `align`.
    fn array<T>(
        &mut self,
        align: usize,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        for item in items {
            self.align(align);
            write(self, item);
        }
        let length = len(self.0.len() - start).to_ne_bytes();
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&length);
        }
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, properties, |writer, property| {
            writer.text(property.name);
            writer.signature(property.value.signature());
            match &property.value {
                Value::Bool(value) => writer.bool(*value),
                Value::Number(value) => writer.u64(*value),
                Value::Text(value) => writer.text(value),
                Value::Bytes(bytes) => writer.array(1, bytes, |writer, byte| writer.0.push(*byte)),
                Value::Pids(pids) => writer.array(4, pids, |writer, pid| writer.u32(*pid)),
                Value::Pairs(pairs) => writer.array(8, pairs, |writer, (first, second)| {
                    writer.text(first);
                    writer.text(second);
                }),
                Value::Numbers(pairs) => writer.array(8, pairs, |writer, (text, number)| {
                    writer.text(text);
                    writer.u64(*number);
                }),
            }
        });
    }

    /// `a(sa(sv))`, an empty one.
    pub(super) fn no_other_units(&mut self) {
        self.array(8, [(); 0], |_, ()| {});
    }
}

/// A length on the wire; more than 4 GiB are never sent.
fn len(bytes: usize) -> u32 {
    bytes.try_into().unwrap_or(u32::MAX)
}

/// A method call to systemd's manager.
pub(super) fn call(serial: u32, member: &str, signature: &str, body: Writer) -> Vec<u8> {
    const METHOD_CALL: u8 = 1;
    const NAME: &str = "org.freedesktop.systemd1";
    const PATH: (u8, &str, &str) = (1, "o", "/org/freedesktop/systemd1");
    const INTERFACE: (u8, &str, &str) = (2, "s", "org.freedesktop.systemd1.Manager");
    let fields = [
        PATH,
        INTERFACE,
        (3, "s", member),
        (6, "s", NAME),
        (8, "g", signature),
    ];
    let mut message = Writer(vec![ORDER, METHOD_CALL, 0, 1]);
    message.u32(len(body.0.len()));
    message.u32(serial);
    message.array(8, fields, |writer, (code, kind, value)| {
        writer.0.push(code);
        writer.signature(kind);
        match kind {
            "g" => writer.signature(value),
            _ => writer.text(value),
        }
    });
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// A message from systemd, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Whether it is an error.
    pub(super) is_error: bool,
    /// The call that it answers.
    pub(super) reply_to: Option<u32>,
    /// Member of a signal.
    pub(super) member: Option<String>,
    /// Name of an error.
    pub(super) error: Option<String>,
    /// Texts and paths at the start of the body, after one number at most.
    pub(super) texts: Vec<String>,
}

/// How many bytes follow the first [`FIXED`] of a message; `None` for one that is malformed or too long.
pub(super) fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
    let mut reader = Reader {
        bytes: fixed,
        at: 4,
    };
    let body = usize::try_from(reader.u32()?).ok()?;
    reader.u32()?;
    let fields = usize::try_from(reader.u32()?).ok()?;
    let rest = fields.checked_next_multiple_of(8)?.checked_add(body)?;
    (fixed[0] == ORDER && rest <= MAX_LEN).then_some(rest)
}

/// The message that `bytes` are; `None` for a malformed one.
pub(super) fn message(bytes: &[u8]) -> Option<Message> {
    const ERROR: u8 = 3;
    let mut message = Message {
        is_error: *bytes.get(1)? == ERROR,
        ..Message::default()
    };
    let mut reader = Reader { bytes, at: 12 };
    let end = FIXED.checked_add(usize::try_from(reader.u32()?).ok()?)?;
    let mut signature = String::new();
    while reader.at < end {
        reader.align(8);
        let code = reader.u8()?;
        match (code, &*reader.signature()?) {
            (3, "s") => message.member = Some(reader.text()?),
            (4, "s") => message.error = Some(reader.text()?),
            (5, "u") => message.reply_to = Some(reader.u32()?),
            (8, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return None,
        }
    }
    reader.align(8);
    let mut kinds = &*signature;
    if let Some(after) = kinds.strip_prefix('u') {
        reader.u32()?;
        kinds = after;
    }
    for kind in kinds.chars() {
        match kind {
            's' | 'o' => message.texts.push(reader.text()?),
            _ => break,
        }
    }
    Some(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.string(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.u8()?.into();
        self.string(length)
    }

    /// `length` bytes of text and a closing NUL.
    fn string(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        self.take(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.0
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn values_lie_where_the_specification_says() {
        assert_eq!(body(|w| w.text("ab")), b"\x02\0\0\0ab\0");
        let number = Property {
            name: "abc",
            value: Value::Number(7),
        };
        assert_eq!(
            body(|w| w.properties(&[number])),
            // The array's length, padding to the first structure, its text, its signature, padding to 8, the number.
            b"\x18\0\0\0\0\0\0\0\x03\0\0\0abc\0\x01t\0\0\0\0\0\0\x07\0\0\0\0\0\0\0"
        );
        let pairs = Property {
            name: "a",
            value: Value::Pairs(vec![("x".into(), "y".into())]),
        };
        assert_eq!(
            body(|w| w.properties(&[pairs])),
            b"\x26\0\0\0\0\0\0\0\x01\0\0\0a\0\x05a(ss)\0\0\0\0\x0e\0\0\0\0\0\0\0\x01\0\0\0x\0\0\0\x01\0\0\0y\0"
        );
        assert_eq!(body(Writer::no_other_units), [0; 8]);
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut body = Writer::default();
        body.text("docker-1.scope");
        body.text("fail");
        let bytes = call(3, "StopUnit", "ss", body);
        let (fixed, after) = bytes.split_at(FIXED);
        assert_eq!(rest(fixed.try_into().unwrap()), Some(after.len()));
        let read = message(&bytes).unwrap();
        assert_eq!(read.member.as_deref(), Some("StopUnit"));
        assert_eq!(read.texts, ["docker-1.scope", "fail"]);
        assert!(!read.is_error && read.reply_to.is_none());
        for cut in 0..bytes.len() {
            assert_eq!(message(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn no_length_is_believed() {
        let mut fixed = [0; FIXED];
        fixed[0] = ORDER;
        fixed[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(rest(&fixed), None);
        fixed[0] = b'x';
        fixed[4..8].copy_from_slice(&0_u32.to_ne_bytes());
        assert_eq!(rest(&fixed), None);
    }
}
