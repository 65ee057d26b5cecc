//! The `entitlements` binary: see [`entitlements`] for where to start reading.

use std::process::ExitCode;

fn main() -> ExitCode {
    entitlements::cli::main()
}
