//! What a program is to say, how much of it, and where.

use std::path::PathBuf;

use clap::Args;

/// What to say, and where.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ReportArgs {
    /// Print events as JSON, one object a line, on standard output
    #[arg(long)]
    pub json: bool,
    /// Keep figures for Prometheus in this file, replaced once a second and at the end: for node_exporter's textfile collector, which
    /// reads names that end in .prom
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Say only what is wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say the facts of every event as well
    #[arg(short, long)]
    pub verbose: bool,
}
