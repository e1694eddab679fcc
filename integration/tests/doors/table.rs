//! The table doors × steps in the README.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::door::{Cell, Door};
use crate::steps::STEPS;

const BEGIN: &str = "<!-- doors: written by the tests -->\n";
const END: &str = "<!-- doors: end -->\n";

/// Compares the README's table with what is tested; writes it where `SYSBOX_WRITE_TABLE` is set.
pub(crate) fn check(doors: &[&dyn Door]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).context("read README.md")?;
    let (before, rest) = readme
        .split_once(BEGIN)
        .context("README.md has no place for the table")?;
    let (now, after) = rest.split_once(END).context("the table has no end")?;
    let table = table(doors)?;
    if std::env::var_os("SYSBOX_WRITE_TABLE").is_some() {
        return fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))
            .context("write README.md");
    }
    ensure!(
        now == table,
        "README.md has another table; SYSBOX_WRITE_TABLE=1 writes this one:\n{table}"
    );
    Ok(())
}

fn table(doors: &[&dyn Door]) -> Result<String> {
    let mut notes: Vec<String> = Vec::new();
    let mut note = |text: String| {
        let at = notes.iter().position(|known| *known == text);
        let at = at.unwrap_or_else(|| {
            notes.push(text);
            notes.len() - 1
        });
        at + 1
    };
    let mut text = String::from("| |");
    for door in doors {
        write!(text, " {} |", door.name())?;
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(doors.len()));
    text.push('\n');
    for step in STEPS {
        write!(text, "| {} |", step.title)?;
        for door in doors {
            let cell = match (door.cell(step.name), step.refused) {
                (Cell::Works, None) => "works".to_owned(),
                (Cell::Works, Some(why)) => format!("refused ({})", note(why.to_owned())),
                (Cell::NotYet(why), _) => format!("not yet ({})", note(why.to_owned())),
                (Cell::Lacks(why), _) => format!("– ({})", note(why.to_owned())),
            };
            write!(text, " {cell} |")?;
        }
        text.push('\n');
    }
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}", number + 1)?;
    }
    Ok(text)
}
