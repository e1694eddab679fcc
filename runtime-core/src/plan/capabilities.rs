//! Capability sets of a process (capabilities(7)).
//!
//! A system container's root has all capabilities, inside its user namespace; another user has the spec's ambient ones, and
//! no other until it executes a set-user-id program. Of `process.capabilities` as much counts as [`CapabilityRule`] says.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::Process;
use crate::error::{Error, Result, Warning};

/// What of `process.capabilities` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CapabilityRule {
    /// Nothing: all capabilities.
    All,
    /// What it lacks of the engines' default set (`dropped-capabilities = "drop"`): all capabilities but those. Where it
    /// lacks more than half of them everything was dropped and some given back, so the spec's sets hold.
    LessDropped,
    /// Everything (`SYSBOX_HONOR_CAPS=TRUE`).
    Spec,
}

/// What containerd, its CRI plugin, nerdctl and Docker give a container of which nothing else is said: CHOWN, DAC_OVERRIDE,
/// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const ENGINES_DEFAULT: u64 = 0xa804_25fb;

/// Capability sets as bit masks; the inheritable set is the ambient one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capabilities {
    /// Bounding.
    pub bounding: u64,
    /// Permitted.
    pub permitted: u64,
    /// Effective.
    pub effective: u64,
    /// Inheritable.
    pub inheritable: u64,
    /// Ambient.
    pub ambient: u64,
}

/// All capabilities up to `last` (/proc/sys/kernel/cap_last_cap).
fn all(last: u8) -> u64 {
    u64::MAX >> (63 - u32::from(last.min(63)))
}

/// What a spec lacks of the engines' default set, on purpose of whoever wrote it. Without the section nothing was said.
fn dropped(given: Option<&oci::LinuxCapabilities>) -> u64 {
    given.map_or(0, |given| {
        let bounding = given.bounding().iter().flatten();
        bounding
            .filter_map(|capability| 1_u64.checked_shl(u32::from(number(*capability))))
            .fold(ENGINES_DEFAULT, |dropped, bit| dropped & !bit)
    })
}

/// The warning where a process has, or can gain, what its spec drops.
pub(super) fn kept(
    rule: CapabilityRule,
    given: Option<&oci::LinuxCapabilities>,
    process: &Process,
) -> Option<Warning> {
    let dropped = dropped(given);
    let reachable = process.uid == 0 || !process.no_new_privs;
    (rule == CapabilityRule::All && dropped != 0 && reachable).then(|| {
        Warning::new(
            "process.capabilities",
            format!(
                "dropped, but root inside has them, as a system container's root has all: {}; set `dropped-capabilities` of \
                 the configuration to \"drop\" to have them gone, or SYSBOX_HONOR_CAPS=TRUE for exactly the capabilities of \
                 the spec",
                names(dropped)
            ),
        )
    })
}

impl Capabilities {
    /// Sets of a process of user `uid`; `last` is the kernel's last capability.
    pub(super) fn new(
        rule: CapabilityRule,
        given: Option<&oci::LinuxCapabilities>,
        uid: u32,
        last: u8,
    ) -> Result<Capabilities> {
        let dropped = match rule {
            CapabilityRule::All => 0,
            CapabilityRule::LessDropped => dropped(given),
            CapabilityRule::Spec => return Self::honoured(given, last),
        };
        if 2 * dropped.count_ones() > ENGINES_DEFAULT.count_ones() {
            return Self::honoured(given, last);
        }
        let ambient = given.and_then(|given| given.ambient().as_ref());
        let ambient = ambient.into_iter().flatten().fold(0, |mask, capability| {
            mask | 1_u64.checked_shl(number(*capability).into()).unwrap_or(0)
        });
        Ok(Self::system_container(uid, all(last) & !dropped, ambient))
    }

    /// Sets of a system container's process: `full` for root; for others only the bounding set, and of it what the spec has
    /// a program keep that is executed (`ambient`). Those are inheritable, too, which the kernel demands; what root executes
    /// inherits nothing (CVE-2022-29162).
    fn system_container(uid: u32, full: u64, ambient: u64) -> Capabilities {
        let kept = if uid == 0 { 0 } else { ambient & full };
        let held = if uid == 0 { full } else { kept };
        Capabilities {
            bounding: full,
            permitted: held,
            effective: held,
            inheritable: kept,
            ambient: kept,
        }
    }

    /// Sets as `process.capabilities` gives them; none given: all empty.
    ///
    /// The inheritable set holds no more than the ambient one needs: engines fill it by habit, and then any program
    /// with inheritable file capabilities raises them (CVE-2022-29162). What the kernel would refuse (effective beyond
    /// permitted, ambient beyond permitted) is refused here.
    fn honoured(given: Option<&oci::LinuxCapabilities>, last: u8) -> Result<Capabilities> {
        let mask = |name: &str, set: &Option<oci::Capabilities>| -> Result<u64> {
            set.iter().flatten().try_fold(0_u64, |mask, capability| {
                let number = number(*capability);
                if number > last {
                    return Err(Error::invalid(
                        format!("process.capabilities.{name}"),
                        format!("CAP_{capability}"),
                        "remove it: this kernel does not have it",
                    ));
                }
                Ok(mask | 1 << number)
            })
        };
        let Some(given) = given else {
            return Ok(Capabilities {
                bounding: 0,
                permitted: 0,
                effective: 0,
                inheritable: 0,
                ambient: 0,
            });
        };
        let permitted = mask("permitted", given.permitted())?;
        let effective = mask("effective", given.effective())?;
        let inheritable = mask("inheritable", given.inheritable())?;
        let ambient = mask("ambient", given.ambient())?;
        for (name, set, within, whole) in [
            ("effective", effective, permitted, "permitted"),
            ("ambient", ambient, permitted, "permitted"),
            ("ambient", ambient, inheritable, "inheritable"),
        ] {
            if set & !within != 0 {
                return Err(Error::invalid(
                    format!("process.capabilities.{name}"),
                    names(set & !within),
                    format!("add it to process.capabilities.{whole} as well"),
                ));
            }
        }
        Ok(Capabilities {
            bounding: mask("bounding", given.bounding())?,
            permitted,
            effective,
            inheritable: inheritable & ambient,
            ambient,
        })
    }
}

/// The names of a mask, by number.
fn names(mask: u64) -> String {
    let mut named: Vec<_> = caps::all()
        .into_iter()
        .filter(|capability| mask & capability.bitmask() != 0)
        .collect();
    named.sort_unstable_by_key(caps::Capability::index);
    let named: Vec<String> = named.iter().map(ToString::to_string).collect();
    named.join(", ")
}

/// The number of linux/capability.h; 255 for one that no kernel has yet.
fn number(capability: oci::Capability) -> u8 {
    format!("CAP_{capability}")
        .parse::<caps::Capability>()
        .map_or(u8::MAX, |known| known.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str) -> oci::LinuxCapabilities {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn root_has_all_and_others_have_none_but_may_gain_them() {
        let sets =
            |uid| Capabilities::new(CapabilityRule::All, Some(&given("{}")), uid, 40).unwrap();
        let root = sets(0);
        assert_eq!(root.effective, 0x1ff_ffff_ffff);
        assert_eq!(
            (root.permitted, root.bounding),
            (root.effective, root.effective)
        );
        assert_eq!((root.inheritable, root.ambient), (0, 0));
        let user = sets(1000);
        assert_eq!((user.permitted, user.effective), (0, 0));
        assert_eq!(user.bounding, 0x1ff_ffff_ffff);
        assert_eq!(all(63), u64::MAX);
    }

    #[test]
    fn a_user_keeps_what_the_spec_makes_ambient() {
        let spec =
            given(r#"{"bounding":["CAP_KILL"],"ambient":["CAP_KILL","CAP_CHECKPOINT_RESTORE"]}"#);
        let sets =
            |uid, last| Capabilities::new(CapabilityRule::All, Some(&spec), uid, last).unwrap();
        let user = sets(1000, 39);
        assert_eq!((user.ambient, user.inheritable), (0x20, 0x20));
        assert_eq!((user.permitted, user.effective), (0x20, 0x20));
        assert_eq!(sets(1000, 40).ambient, 0x20 | 1 << 40);
        let root = sets(0, 40);
        assert_eq!((root.ambient, root.inheritable), (0, 0));
        assert_eq!(root.effective, 0x1ff_ffff_ffff);
    }

    #[test]
    fn honoured_sets_are_the_specs_but_for_idle_inheritables() {
        let spec = given(
            r#"{"bounding":["CAP_CHOWN","CAP_KILL"],"permitted":["CAP_CHOWN","CAP_KILL"],
                "effective":["CAP_CHOWN"],"inheritable":["CAP_CHOWN","CAP_KILL"],"ambient":["CAP_KILL"]}"#,
        );
        let sets = Capabilities::new(CapabilityRule::Spec, Some(&spec), 0, 40).unwrap();
        assert_eq!(
            (sets.bounding, sets.permitted, sets.effective),
            (0x21, 0x21, 0x1)
        );
        assert_eq!((sets.inheritable, sets.ambient), (0x20, 0x20));
        let error = Capabilities::new(CapabilityRule::Spec, Some(&spec), 0, 4)
            .unwrap_err()
            .to_string();
        assert!(error.contains("CAP_KILL: remove it"), "{error}");
        let none = Capabilities::new(CapabilityRule::Spec, None, 0, 40).unwrap();
        assert_eq!((none.bounding, none.permitted), (0, 0));
    }

    /// The engines' default set as a spec has it, less `dropped`.
    fn engine(dropped: &[&str]) -> oci::LinuxCapabilities {
        let left: Vec<String> = names(ENGINES_DEFAULT)
            .split(", ")
            .filter(|name| !dropped.contains(name))
            .map(String::from)
            .collect();
        assert_eq!(left.len() + dropped.len(), 14);
        let left = serde_json::to_string(&left).unwrap();
        given(&format!(
            r#"{{"bounding":{left},"permitted":{left},"effective":{left}}}"#
        ))
    }

    #[test]
    fn what_is_dropped_from_the_engines_default_is_gone_where_configured() {
        let full = 0x1ff_ffff_ffff;
        let sets = |given: Option<&oci::LinuxCapabilities>, uid| {
            Capabilities::new(CapabilityRule::LessDropped, given, uid, 40).unwrap()
        };
        assert_eq!(sets(Some(&engine(&[])), 0).bounding, full);
        assert_eq!(sets(None, 0).bounding, full);
        let less = full & !(1 << 13) & !(1 << 27);
        let root = sets(Some(&engine(&["CAP_NET_RAW", "CAP_MKNOD"])), 0);
        assert_eq!(
            (root.bounding, root.permitted, root.effective),
            (less, less, less)
        );
        let user = sets(Some(&engine(&["CAP_NET_RAW", "CAP_MKNOD"])), 1000);
        assert_eq!(
            (user.bounding, user.permitted, user.effective),
            (less, 0, 0)
        );
        // `drop: [ALL]`, and the same with some given back.
        assert_eq!(sets(Some(&given("{}")), 0).bounding, 0);
        let some = given(
            r#"{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"permitted":["CAP_CHOWN","CAP_SYS_ADMIN"],
                "effective":["CAP_CHOWN","CAP_SYS_ADMIN"]}"#,
        );
        let back = sets(Some(&some), 0);
        assert_eq!((back.bounding, back.effective), (0x20_0001, 0x20_0001));
        // Half is still less than everything.
        let half = [
            "CAP_CHOWN",
            "CAP_KILL",
            "CAP_SETUID",
            "CAP_SETGID",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETFCAP",
        ];
        assert_eq!(sets(Some(&engine(&half)), 0).bounding.count_ones(), 41 - 7);
        let most = [&half[..], &["CAP_FOWNER"]].concat();
        assert_eq!(sets(Some(&engine(&most)), 0).bounding.count_ones(), 14 - 8);
    }

    #[test]
    fn every_capability_of_the_spec_has_its_number() {
        for i in 0..=40 {
            let name = names(1 << i);
            let capability: oci::Capability = serde_json::from_value(name.clone().into()).unwrap();
            assert_eq!(number(capability), i, "{name}");
        }
        assert_eq!(names(1 << 41), "");
    }
}
