//! What one probe found, and how a report says it.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// How a finding bears on us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// We run, at the cost named.
    Degraded,
    /// Root must look.
    Unknown,
    /// We cannot run.
    Missing,
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, in one or two words.
    pub(crate) name: &'static str,
    /// How it bears on us.
    pub(crate) status: Status,
    /// What is there.
    pub(crate) detail: String,
    /// What the lack costs; empty where nothing is lacking.
    pub(crate) cost: String,
    /// What to do about it; empty where nothing is lacking.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding {
            name,
            status: Status::Ok,
            detail: detail.into(),
            cost: String::new(),
            remedy: String::new(),
        }
    }

    pub(crate) fn degraded(
        name: &'static str,
        detail: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Degraded,
            cost: cost.into(),
            remedy: remedy.into(),
            ..Finding::ok(name, detail)
        }
    }

    pub(crate) fn missing(
        name: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Missing,
            cost: "no container can be made".into(),
            remedy: remedy.into(),
            ..Finding::ok(name, detail)
        }
    }

    pub(crate) fn needs_root(name: &'static str) -> Finding {
        Finding {
            status: Status::Unknown,
            cost: "not known".into(),
            remedy: "run this check as root".into(),
            ..Finding::ok(name, "only root can look")
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Unknown => "unknown",
            Status::Missing => "MISSING",
        })
    }
}

/// A line for each finding, two more where something is lacking, and a verdict.
pub(crate) fn write_text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        let Finding {
            name,
            status,
            detail,
            cost,
            remedy,
        } = finding;
        writeln!(out, "{status:<9} {name:<22} {detail}")?;
        if *status != Status::Ok {
            writeln!(out, "{:33}costs: {cost}", "")?;
            writeln!(out, "{:33}do: {remedy}", "")?;
        }
    }
    let count = |status| findings.iter().filter(|f| f.status == status).count();
    writeln!(
        out,
        "{}: {} ok, {} degraded, {} unknown, {} missing",
        if runs(findings) {
            "containers can run here"
        } else {
            "containers cannot run here"
        },
        count(Status::Ok),
        count(Status::Degraded),
        count(Status::Unknown),
        count(Status::Missing)
    )
}

/// One array of all findings.
pub(crate) fn write_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, findings)?;
    writeln!(out)
}

/// Whether nothing that we cannot do without is missing.
pub(crate) fn runs(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.status != Status::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Vec<Finding> {
        vec![
            Finding::ok("kernel", "6.18"),
            Finding::degraded("memory", "no controller", "no limits", "boot without v1"),
            Finding::needs_root("overlay"),
            Finding::missing("root", "uid 1000", "use sudo"),
        ]
    }

    #[test]
    fn a_person_reads_what_it_costs_and_what_to_do() {
        let mut text = Vec::new();
        write_text(&all_kinds(), &mut text).unwrap();
        let expected = "\
ok        kernel                 6.18
degraded  memory                 no controller
                                 costs: no limits
                                 do: boot without v1
unknown   overlay                only root can look
                                 costs: not known
                                 do: run this check as root
MISSING   root                   uid 1000
                                 costs: no container can be made
                                 do: use sudo
containers cannot run here: 1 ok, 1 degraded, 1 unknown, 1 missing
";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_program_reads_an_array() {
        let mut text = Vec::new();
        write_json(&all_kinds(), &mut text).unwrap();
        let array: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let statuses: Vec<_> = array
            .as_array()
            .unwrap()
            .iter()
            .map(|f| &f["status"])
            .collect();
        assert_eq!(statuses, ["ok", "degraded", "unknown", "missing"]);
        assert_eq!(
            array[1],
            serde_json::json!({
                "name": "memory", "status": "degraded", "detail": "no controller",
                "cost": "no limits", "remedy": "boot without v1"
            })
        );
    }

    #[test]
    fn only_what_is_missing_stops_us() {
        let mut findings = all_kinds();
        assert!(!runs(&findings));
        findings.pop();
        assert!(runs(&findings));
    }
}
