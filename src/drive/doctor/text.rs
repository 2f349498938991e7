//! Findings in lines for people, and as one JSON object.

use std::fmt::Write;

use serde_json::json;

use super::{DoctorOptions, value};
use crate::diagnosis::{Choice, Facts, Finding, Status};
use crate::failure::Exit;

/// The version of the object's form; it changes when a member changes its meaning or goes away.
const SCHEMA: u64 = 1;

/// One line for each finding, and one for what mends it.
pub(super) fn lines(findings: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { check, status, text, remedy } in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{status:<5} {:<11} {text}", check.name());
        if let Some(remedy) = remedy {
            let _ = writeln!(out, "{:<17} => {remedy}", "");
        }
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (fails, warnings) = (count(Status::Fail), count(Status::Warn));
    let _ = match (fails, warnings) {
        (0, 0) if count(Status::Skip) > 0 => writeln!(out, "nothing is wrong, as far as could be seen"),
        (0, 0) => writeln!(out, "nothing is wrong"),
        _ => writeln!(out, "{fails} FAIL, {warnings} WARN"),
    };
    out
}

/// All findings as one object, in one line.
pub(super) fn json(options: &DoctorOptions, facts: &Facts, findings: &[Finding]) -> String {
    let interface = match &facts.choice {
        Choice::Link(link) => Some(link.name.as_str()),
        Choice::None { .. } => None,
    };
    let status = findings.iter().map(|finding| finding.status).filter(|&status| status != Status::Skip).max();
    let status = status.unwrap_or(Status::Ok);
    let exit = if status == Status::Fail { Exit::Unavailable } else { Exit::Complete };
    let object = json!({
        "schema": SCHEMA,
        "group": options.group.to_string(),
        "interface": interface,
        "send": options.send.is_some(),
        "seconds": facts.heard.as_ref().map(|heard| heard.time.as_secs_f64()),
        "status": status.to_string(),
        "exit": exit as u8,
        "findings": findings.iter().map(value).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}
