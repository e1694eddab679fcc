//! Bounds of the kernel's that all containers share: it has none for each, so one container can use them up.
//!
//! What is enough, and what a lower value costs, says `deploy/sysctl.conf`, which the installer puts in place.

use std::fs;
use std::path::Path;

use super::Finding;

/// Paragraphs of comments, what a lack costs, and a line `key = value`.
const ENOUGH: &str = include_str!("../../../deploy/sysctl.conf");

/// The longest answer that a FUSE server may take: less is more, but 0 is no bound.
const FUSE_TIMEOUT: &str = "fs.fuse.max_request_timeout";

/// A bound, and why it matters.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    key: &'static str,
    enough: u64,
    cost: String,
}

/// A finding for each bound; the kernel's values are below `sysctls` (`/proc/sys`).
pub(super) fn all(sysctls: &Path) -> Vec<Finding> {
    bounds()
        .into_iter()
        .map(|bound| {
            let file = sysctls.join(bound.key.replace('.', "/"));
            judge(&bound, fs::read_to_string(file).ok().as_deref())
        })
        .collect()
}

fn bounds() -> Vec<Bound> {
    ENOUGH
        .split("\n\n")
        .filter_map(|paragraph| {
            let (comments, setting): (Vec<&str>, Vec<&str>) =
                paragraph.lines().partition(|line| line.starts_with('#'));
            let (key, value) = setting.first()?.split_once(" = ")?;
            let cost = comments.iter().map(|line| line.trim_start_matches("# "));
            Some(Bound {
                key,
                enough: value.parse().ok()?,
                cost: cost.collect::<Vec<_>>().join(" "),
            })
        })
        .collect()
}

fn judge(bound: &Bound, file: Option<&str>) -> Finding {
    let Bound { key, enough, cost } = bound;
    let Some(value) = file.and_then(|text| text.trim().parse::<u64>().ok()) else {
        return Finding::ok(
            key,
            "not known to this kernel here, or not before a module is loaded",
        );
    };
    if value >= *enough || (*key == FUSE_TIMEOUT && value != 0) {
        return Finding::ok(key, value.to_string());
    }
    Finding::degraded(
        key,
        value.to_string(),
        cost,
        format!("deploy/install.sh install --sysctl, or sysctl -w {key}={enough}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn each_setting_of_the_file_says_what_its_lack_costs() {
        let bounds = bounds();
        let settings = ENOUGH
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count();
        assert_eq!(bounds.len(), settings);
        for bound in bounds {
            assert!(bound.cost.len() > 20 && bound.enough > 0, "{bound:?}");
        }
    }

    #[test]
    fn what_is_not_enough_is_named_with_its_remedy() {
        let bound = |key| Bound {
            key,
            enough: 600,
            cost: "the next one fails".into(),
        };
        for (key, value, status) in [
            ("kernel.pty.max", Some("599\n"), Status::Degraded),
            ("kernel.pty.max", Some("600\n"), Status::Ok),
            ("kernel.pty.max", Some("18446744073709551615\n"), Status::Ok),
            ("kernel.pty.max", None, Status::Ok),
            (FUSE_TIMEOUT, Some("0\n"), Status::Degraded),
            (FUSE_TIMEOUT, Some("60\n"), Status::Ok),
            (FUSE_TIMEOUT, Some("6000\n"), Status::Ok),
        ] {
            let finding = judge(&bound(key), value);
            assert_eq!(finding.status, status, "{key} {value:?}");
            assert_eq!(
                finding.remedy.ends_with(&format!("sysctl -w {key}=600")),
                status == Status::Degraded,
                "{finding:?}"
            );
        }
    }
}
