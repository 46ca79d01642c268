//! The command line: parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    // Wrong usage ends in here, with code 2; so do --help and --version, with 0.
    cli::Cli::parse().run()
}
