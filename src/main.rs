//! The `entitlements` binary: see [`entitlements`] for where to start reading.

use std::process::ExitCode;

/// A check makes and frees some dozens of small blocks in tonic and hyper; this allocator is faster at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    entitlements::cli::main()
}
