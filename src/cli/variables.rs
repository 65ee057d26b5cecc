//! The environment variables of this service: errors name them, and mistyped ones are reported.

use super::{Cli, arguments::FILE_SUFFIX};
use clap::{Arg, Command, CommandFactory};
use std::{collections::BTreeSet, env};

/// The prefix of all variables that only this service reads.
const PREFIX: &str = "ENTITLEMENTS_";
/// How similar two names must be for one to be suggested instead of the other, from 0 to 1.
const SIMILAR: f64 = 0.85;

/// A variable with the prefix of this service that no command reads.
pub(super) struct UnknownVariable {
    name: String,
    nearest: Option<String>,
}

impl UnknownVariable {
    /// The warning, with the fix.
    pub(super) fn warning(&self) -> String {
        format!("{}: {}", self.is_ignored(), self.fix())
    }

    pub(super) fn is_ignored(&self) -> String {
        format!("{} is not a setting, and is ignored", self.name)
    }

    pub(super) fn fix(&self) -> String {
        match &self.nearest {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "`entitlements serve --help` lists all settings".into(),
        }
    }
}

/// The variables of this process that have the prefix, but that no command reads.
pub(super) fn unknown() -> Vec<UnknownVariable> {
    let known = known(&Cli::command());
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let ours: BTreeSet<_> = names.filter(|name| name.starts_with(PREFIX)).collect();
    let unknown = ours.into_iter().filter(|name| !known.contains(name) && !is_service_link(name));
    let report = |name: String| UnknownVariable { nearest: nearest(&name, &known), name };
    unknown.map(report).collect()
}

/// Logs the variables that no command reads.
pub(super) fn log_unknown() {
    for UnknownVariable { name, nearest } in unknown() {
        tracing::warn!(
            name,
            nearest,
            "unknown environment variable, ignored: see `entitlements serve --help`"
        );
    }
}

/// The variables that the arguments of a command and of its subcommands read.
fn known(command: &Command) -> BTreeSet<String> {
    let here = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_string_lossy().into_owned();
        let file = argument.is_hide_env_values_set().then(|| format!("{name}{FILE_SUFFIX}"));
        Some([name].into_iter().chain(file))
    });
    here.flatten().chain(command.get_subcommands().flat_map(known)).collect()
}

/// Whether Kubernetes sets the variable for a Service with the name `entitlements`, as for Docker's links:
/// `ENTITLEMENTS_SERVICE_HOST`, `ENTITLEMENTS_PORT_50051_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    rest == "PORT"
        || ["SERVICE_", "PORT_", "WEBHOOKS_SERVICE_", "WEBHOOKS_PORT"]
            .iter()
            .any(|link| rest.starts_with(link))
}

fn nearest(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let rest = |name: &str| name.trim_start_matches(PREFIX).to_owned();
    let likeness = |other: &&String| strsim::jaro(&rest(name), &rest(other));
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&nearest) >= SIMILAR).then(|| nearest.clone())
}

/// Names the variable in an error about the value of an argument, such as `for '--admin[=<BOOL>]'`, that no flag gives.
pub(super) fn name_variable(error: &str, flags: &[String]) -> String {
    let known = Cli::command();
    let mut called = &known;
    for flag in flags {
        called = called.find_subcommand(flag).unwrap_or(called);
    }
    let Some((before, rest)) = error.split_once(" for '--") else {
        let lines = error.split_inclusive('\n');
        return lines.map(|line| with_variable(line, called)).collect();
    };
    let Some((shown, after)) = rest.split_once('\'') else { return error.to_owned() };
    let long = shown.split([' ', '=', '[']).next().unwrap_or_default();
    let flag = format!("--{long}");
    let is_given = |given: &String| given.split('=').next() == Some(&*flag);
    match variable(called, long) {
        Some(variable) if !flags.iter().any(is_given) => format!("{before} for {variable}{after}"),
        _ => error.to_owned(),
    }
}

/// Adds the variable to a line that names a missing argument, such as `  --api-tls-key <FILE>`.
fn with_variable(line: &str, called: &Command) -> String {
    let long = line.strip_prefix("  --").and_then(|rest| rest.split(' ').next());
    match long.and_then(|long| variable(called, long.trim())) {
        Some(variable) => format!("{} [env: {variable}]\n", line.trim_end()),
        None => line.to_owned(),
    }
}

/// The variable of a command's argument with this long flag.
fn variable(called: &Command, long: &str) -> Option<String> {
    let argument = called.get_arguments().find(|argument| argument.get_long() == Some(long));
    let name = argument.and_then(Arg::get_env);
    name.map(|name| name.to_string_lossy().into_owned())
}
