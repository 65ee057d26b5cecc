//! Tests that need a program or a right that a machine may lack.

use std::{
    env,
    io::{self, Write},
    thread,
};

/// Prints on standard error that the running test is skipped, and fails the test unless `ALLOW_SKIP=1`.
/// `.cargo/config.toml` sets that, so that `cargo test` passes on a bare machine; `.ci/run` unsets it where everything
/// is installed.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    assert_eq!(env::var("ALLOW_SKIP").as_deref(), Ok("1"), "{test} cannot run: {reason}");
    // Not `eprintln!`: the output of a test that passes is hidden.
    let _ = writeln!(io::stderr(), "skipped {test}: {reason}");
}
