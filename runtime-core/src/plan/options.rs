//! Mount options as the runtime spec and mount(8) spell them, sorted by who acts on them.

use serde::{Deserialize, Serialize};

use super::text;
use crate::error::{Error, Result};
use crate::kernel::fs::FsOption;

/// Propagation type of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Propagation {
    /// `private`
    Private,
    /// `slave`
    Slave,
    /// `shared`
    Shared,
    /// `unbindable`
    Unbindable,
}

/// MOUNT_ATTR_* of linux/mount.h.
pub(crate) mod attr {
    /// Read-only.
    pub(crate) const RDONLY: u64 = 0x1;
    /// Ignore set-user-id bits.
    pub(crate) const NOSUID: u64 = 0x2;
    /// Ignore device nodes.
    pub(crate) const NODEV: u64 = 0x4;
    /// Do not execute.
    pub(crate) const NOEXEC: u64 = 0x8;
    /// The access-time field as a whole; it is cleared whenever one of its values is set.
    pub(crate) const ATIME: u64 = 0x70;
    /// Never update access times (0 in the field means `relatime`).
    pub(crate) const NOATIME: u64 = 0x10;
    /// Always update access times.
    pub(crate) const STRICTATIME: u64 = 0x20;
    /// Never update access times of directories.
    pub(crate) const NODIRATIME: u64 = 0x80;
    /// Do not follow symbolic links.
    pub(crate) const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// Bits to set and to clear with mount_setattr(2); later options win.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attr {
    fn on(&mut self, bit: u64) {
        self.set |= bit;
        self.clear &= !bit;
    }

    fn off(&mut self, bit: u64) {
        self.clear |= bit;
        self.set &= !bit;
    }

    fn atime(&mut self, value: u64) {
        self.set = self.set & !attr::ATIME | value;
        self.clear |= attr::ATIME;
    }

    /// Whether `word` is an option of this kind, and if so what it does.
    fn take(&mut self, word: &str) -> bool {
        match word {
            "ro" => self.on(attr::RDONLY),
            "rw" => self.off(attr::RDONLY),
            "nosuid" => self.on(attr::NOSUID),
            "suid" => self.off(attr::NOSUID),
            "nodev" => self.on(attr::NODEV),
            "dev" => self.off(attr::NODEV),
            "noexec" => self.on(attr::NOEXEC),
            "exec" => self.off(attr::NOEXEC),
            "nodiratime" => self.on(attr::NODIRATIME),
            "diratime" => self.off(attr::NODIRATIME),
            "nosymfollow" => self.on(attr::NOSYMFOLLOW),
            "symfollow" => self.off(attr::NOSYMFOLLOW),
            "noatime" => self.atime(attr::NOATIME),
            "strictatime" => self.atime(attr::STRICTATIME),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => self.atime(0),
            _ => return false,
        }
        true
    }
}

/// All options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` (false) or `rbind` (true).
    pub(super) bind: Option<bool>,
    /// Attributes of the top mount.
    pub(super) attr: Attr,
    /// Attributes of the whole tree.
    pub(super) recursive: Attr,
    /// Propagation, and whether it is recursive.
    pub(super) propagation: Option<(Propagation, bool)>,
    /// `tmpcopyup`.
    pub(super) copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub(super) idmap: Option<bool>,
    /// Options of the superblock that every file system has (`sync`).
    pub(super) superblock: Vec<String>,
    /// Everything else, for the file system itself, with the index in the list.
    pub(super) data: Vec<(usize, FsOption)>,
}

/// Most options of one mount; an overlay of many layers has the most.
const MAX_OPTIONS: usize = 4096;

impl Options {
    /// Sorts the options of `mounts[i]`. Data options are checked by whoever knows the file system.
    pub(super) fn parse(field: &str, words: &[String]) -> Result<Options> {
        text::bounded(field, words, MAX_OPTIONS)?;
        let mut options = Options::default();
        for (i, word) in words.iter().enumerate() {
            text::plain(&format!("{field}[{i}]"), word, text::ARG_MAX)?;
            options.take(&format!("{field}[{i}]"), i, word)?;
        }
        Ok(options)
    }

    fn take(&mut self, field: &str, i: usize, word: &str) -> Result<()> {
        if self.attr.take(word) {
            return Ok(());
        }
        if let Some(rest) = word.strip_prefix('r')
            && self.recursive.take(rest)
        {
            return Ok(());
        }
        if let Some(propagation) = propagation(word) {
            self.propagation = Some(propagation);
            return Ok(());
        }
        match word {
            // Nothing to do: the defaults, and what only mount(8) itself acts on.
            "defaults" | "silent" | "loud" | "auto" | "noauto" | "nofail" | "_netdev" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "sync" | "dirsync" | "lazytime" | "mand" => self.superblock.push(word.into()),
            "async" => self.superblock.retain(|o| o != "sync"),
            "nolazytime" => self.superblock.retain(|o| o != "lazytime"),
            "nomand" => self.superblock.retain(|o| o != "mand"),
            "remount" => {
                return Err(Error::invalid(
                    field,
                    word,
                    "remove it: each mount of the spec is a new one",
                ));
            }
            "" => return Err(Error::invalid(field, "an empty string", "remove it")),
            _ => {
                let (key, value) = match word.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_string())),
                    None => (word, None),
                };
                if key.is_empty() || key.contains(|c: char| c.is_control() || c == ',') {
                    return Err(Error::invalid(
                        field,
                        word.escape_debug(),
                        "write one option, `name` or `name=value`",
                    ));
                }
                let key = key.to_string();
                self.data.push((i, FsOption { key, value }));
            }
        }
        Ok(())
    }
}

/// A propagation word, as in mount options and `linux.rootfsPropagation`: its type and whether it is recursive.
pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let kind = |word: &str| match word {
        "private" => Some(Propagation::Private),
        "slave" => Some(Propagation::Slave),
        "shared" => Some(Propagation::Shared),
        "unbindable" => Some(Propagation::Unbindable),
        _ => None,
    };
    match kind(word) {
        Some(found) => Some((found, false)),
        None => Some((kind(word.strip_prefix('r')?)?, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        let words: Vec<String> = words.split(' ').map(String::from).collect();
        Options::parse("mounts[0].options", &words).unwrap()
    }

    /// set, clear, set_recursive, clear_recursive
    fn bits(words: &str) -> [u64; 4] {
        let o = parse(words);
        [o.attr.set, o.attr.clear, o.recursive.set, o.recursive.clear]
    }

    #[test]
    fn each_word_has_its_bits() {
        for (words, expected) in [
            ("ro", [0x1, 0, 0, 0]),
            ("rw", [0, 0x1, 0, 0]),
            ("nosuid", [0x2, 0, 0, 0]),
            ("suid", [0, 0x2, 0, 0]),
            ("nodev", [0x4, 0, 0, 0]),
            ("dev", [0, 0x4, 0, 0]),
            ("noexec", [0x8, 0, 0, 0]),
            ("exec", [0, 0x8, 0, 0]),
            ("noatime", [0x10, 0x70, 0, 0]),
            ("strictatime", [0x20, 0x70, 0, 0]),
            ("relatime", [0, 0x70, 0, 0]),
            ("atime", [0, 0x70, 0, 0]),
            ("nodiratime", [0x80, 0, 0, 0]),
            ("diratime", [0, 0x80, 0, 0]),
            ("nosymfollow", [0x20_0000, 0, 0, 0]),
            ("symfollow", [0, 0x20_0000, 0, 0]),
            ("rro", [0, 0, 0x1, 0]),
            ("rrw", [0, 0, 0, 0x1]),
            ("rnosuid", [0, 0, 0x2, 0]),
            ("rsuid", [0, 0, 0, 0x2]),
            ("rnodev", [0, 0, 0x4, 0]),
            ("rdev", [0, 0, 0, 0x4]),
            ("rnoexec", [0, 0, 0x8, 0]),
            ("rexec", [0, 0, 0, 0x8]),
            ("rnoatime", [0, 0, 0x10, 0x70]),
            ("rstrictatime", [0, 0, 0x20, 0x70]),
            ("rrelatime", [0, 0, 0, 0x70]),
            ("rnodiratime", [0, 0, 0x80, 0]),
            ("rdiratime", [0, 0, 0, 0x80]),
            ("rnosymfollow", [0, 0, 0x20_0000, 0]),
            ("rsymfollow", [0, 0, 0, 0x20_0000]),
        ] {
            assert_eq!(bits(words), expected, "{words}");
        }
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(bits("ro rw"), [0, 0x1, 0, 0]);
        assert_eq!(bits("rw ro"), [0x1, 0, 0, 0]);
        assert_eq!(bits("noatime strictatime"), [0x20, 0x70, 0, 0]);
        assert_eq!(bits("noatime relatime"), [0, 0x70, 0, 0]);
        assert_eq!(bits("ro rrw"), [0x1, 0, 0, 0x1]);
        let o = parse("rslave rprivate");
        assert_eq!(o.propagation, Some((Propagation::Private, true)));
        assert!(parse("sync async").superblock.is_empty());
    }

    #[test]
    fn words_that_are_not_bits() {
        let o = parse("rbind shared tmpcopyup ridmap sync mode=1777 quota defaults");
        assert_eq!(o.bind, Some(true));
        assert_eq!(o.propagation, Some((Propagation::Shared, false)));
        assert!(o.copy_up);
        assert_eq!(o.idmap, Some(true));
        assert_eq!(o.superblock, ["sync"]);
        let data: Vec<_> = o
            .data
            .iter()
            .map(|(i, o)| (*i, o.key.as_str(), o.value.as_deref()))
            .collect();
        assert_eq!(data, [(5, "mode", Some("1777")), (6, "quota", None)]);
        assert_eq!(parse("bind").bind, Some(false));
        assert_eq!(parse("rbind bind").bind, Some(true));
    }
}
