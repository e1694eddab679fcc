//! The table of known holes in `docs/security.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::rows::{ENGINES, RUNTIMES, Row, SYSTEM, Shown};

const BEGIN: &str = "<!-- rows: written by the tests -->\n";
const END: &str = "<!-- rows: end -->\n";

/// Compares the table with what is tested; writes it where `SYSBOX_WRITE_TABLE` is set. `cases` are the names of this
/// suite's, `KIND::CASE`.
pub(crate) fn check(cases: &[String]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let page = fs::read_to_string(&path).context("read docs/security.md")?;
    let (before, rest) = page
        .split_once(BEGIN)
        .context("docs/security.md has no place for the table")?;
    let (now, after) = rest.split_once(END).context("the table has no end")?;
    for name in [RUNTIMES, ENGINES, SYSTEM]
        .into_iter()
        .flatten()
        .flat_map(names)
    {
        ensure!(exists(cases, name)?, "there is no case {name}");
    }
    let mut table = String::new();
    for (title, rows) in [
        (
            "Runtimes: runc (unless it says otherwise), crun, youki",
            RUNTIMES,
        ),
        ("Shims and engines: containerd, CRI-O, Kata", ENGINES),
        (
            "System containers: LXC, Incus, Docker Desktop, Sysbox",
            SYSTEM,
        ),
    ] {
        write!(
            table,
            "\n### {title}\n\n| hole | cause | rule | shown by |\n|---|---|---|---|\n"
        )?;
        for row in rows {
            let shown = match row.shown {
                Shown::By(names) => names
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                Shown::Not(why) => format!("– {why}"),
            };
            writeln!(
                table,
                "| {} | {} | {} | {shown} |",
                row.holes, row.cause, row.rule
            )?;
        }
    }
    table.push('\n');
    if std::env::var_os("SYSBOX_WRITE_TABLE").is_some() {
        return fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))
            .context("write docs/security.md");
    }
    ensure!(
        now == table,
        "docs/security.md has another table; SYSBOX_WRITE_TABLE=1 writes this one:\n{table}"
    );
    Ok(())
}

fn names(row: &Row) -> &'static [&'static str] {
    match row.shown {
        Shown::By(names) => names,
        Shown::Not(_) => &[],
    }
}

/// Whether there is a case of this suite, or in the sources of another one, by this name.
fn exists(cases: &[String], name: &str) -> Result<bool> {
    let Some((suite, case)) = name.split_once('/') else {
        return Ok(cases.iter().any(|known| known == name));
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(suite);
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if text.contains(&format!("\"{case}\"")) {
            return Ok(true);
        }
    }
    Ok(false)
}
