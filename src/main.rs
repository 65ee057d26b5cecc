//! The `entitlements` binary. The documentation of the library, [`entitlements`], says where to start reading.

use std::process::ExitCode;

/// A check allocates and frees dozens of small blocks in tonic and hyper, which mimalloc does faster than the system's
/// allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    entitlements::cli::main()
}
