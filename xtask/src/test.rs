//! `cargo xtask test`: checks, unit, scenario and cluster tests, cheapest first, counted at the end.

use std::process::ExitCode;

use vgpu_programs::ProgramsError;

use crate::cargo;
use crate::limiter;
use crate::programs::{GoBuild, can_run_cluster};
use crate::report::Report;
use crate::suite::Kind;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the suites whose name contains one of these words (`vgpu-allocator`, `controller::`, `e2e::demo`, `checks`);
    /// none runs everything.
    suites: Vec<String>,
    /// Soak sizes: more rounds, more operations.
    #[arg(long)]
    long: bool,
    /// List the suites and run nothing.
    #[arg(long)]
    list: bool,
}

impl Args {
    fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|word| suite.contains(word.as_str()))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    // Ten minutes on a machine that has none of them: they start first and run beside everything that needs no cluster.
    // Where no cluster can run, the suites say so and count their tests as skipped.
    let wants_cluster = args.suites.is_empty() || args.suites.iter().any(|s| s.contains("e2e"));
    let programs = (wants_cluster && !args.list && can_run_cluster().is_ok()).then(GoBuild::start);

    if args.wants("checks") && !args.list {
        report.check("rustfmt", cargo::run(&["fmt", "--all", "--check"]));
        report.check(
            "clippy",
            cargo::run(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
        );
    }
    // Shared objects and programs that tests load and start are no test targets of their own.
    // With the tests: what they need of dependencies counts for all targets, and nothing is compiled in two flavours.
    cargo::run(&["build", "--workspace", "--all-targets"])?;
    let mut binaries = cargo::test_binaries()?;
    binaries.sort_by_key(|b| b.kind());
    if args.list {
        binaries.iter().for_each(|b| println!("{:<15} {}", b.kind().name(), b.suite()));
        return Ok(ExitCode::SUCCESS);
    }

    let wanted: Vec<_> = binaries.iter().filter(|b| args.wants(&b.suite())).collect();
    // The limiter as it is shipped, for the suites that load it and the images of clusters.
    let environment = if wanted.iter().any(|b| !b.unit && matches!(&*b.package, "vgpu-cuda" | "vgpu-e2e")) {
        let built = limiter::build();
        let environment = built.as_ref().map(limiter::Built::environment).unwrap_or_default();
        report.check("limiter for glibc 2.17", built.map(drop));
        environment
    } else {
        Vec::new()
    };

    let mut programs = programs;
    let mut ran = 0;
    for binary in wanted {
        if binary.kind() == Kind::Cluster
            && let Some(build) = programs.take()
        {
            match build.finish() {
                // As above.
                Err(ProgramsError::Missing { .. }) => {}
                ended => report.check("go programs", ended.map_err(Into::into)),
            }
        }
        println!("\n=== {}: {}", binary.kind().name(), binary.suite());
        report.add(binary.kind(), &binary.suite(), binary.run(args.long, &environment)?);
        ran += 1;
    }
    if ran == 0 && !args.wants("checks") {
        anyhow::bail!("no suite is called like {:?}; `cargo xtask test --list` shows them", args.suites);
    }
    Ok(if report.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
