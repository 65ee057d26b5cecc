//! Tests that need a program or a right that a machine may lack.

use std::{
    env,
    io::{self, Write},
    thread,
};

/// Skips the running test, which needs a program that is not installed. The test fails unless `ALLOW_SKIP=1`.
pub fn skip(reason: &str) {
    skip_if(reason, &["1"]);
}

/// Skips the running test, which starts processes of another user. The test fails unless `ALLOW_SKIP` is `1` or `root`.
pub fn skip_without_root() {
    skip_if(
        "no process can run as another user here (it needs root, and a user `daemon`)",
        &["1", "root"],
    );
}

/// Prints on standard error that the running test is skipped, and fails it unless `ALLOW_SKIP` has one of these values.
/// `.cargo/config.toml` sets `1`, so that `cargo test` passes on a bare machine. The workflows set `root`, because their
/// runners have the programs but are not root. `.ci/run` sets `root` or `0` if no program is missing.
fn skip_if(reason: &str, allowed: &[&str]) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let is_allowed = env::var("ALLOW_SKIP").is_ok_and(|value| allowed.contains(&&*value));
    assert!(is_allowed, "{test} cannot run: {reason}");
    // Not `eprintln!`: the output of a test that passes is hidden.
    let _ = writeln!(io::stderr(), "skipped {test}: {reason}");
}
