//! Reads flags and variables. A variable that is empty, or nothing but white space, counts as unset: `compose` and
//! other tools pass on a variable that nobody set as an empty one.

use super::Cli;
use clap::{
    Arg, Command, CommandFactory, FromArgMatches, Parser, builder::Resettable, error::ErrorKind,
};
use std::env;

/// The command line of this process. Ends the process after help, and if the command line is wrong.
pub(super) fn parse() -> Cli {
    let mut command = without_empty_variables(Cli::command());
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp => Cli::parse(), // help names all variables
        _ => end(&error.format(&mut command)),
    })
}

fn without_empty_variables(command: Command) -> Command {
    let unset = |arg: Arg| {
        let value = arg.get_env().and_then(env::var_os);
        if value.is_some_and(|value| value.to_string_lossy().trim().is_empty()) {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

/// Prints what is wrong. An argument that holds a URL is left out of it: the URL may have a password.
fn end(error: &clap::Error) -> ! {
    let urls: Vec<_> = env::args().skip(1).filter(|argument| argument.contains("://")).collect();
    let told = error.render().to_string();
    if !urls.iter().any(|url| told.contains(&**url)) {
        error.exit();
    }
    let told = urls.iter().fold(told, |told, url| told.replace(&**url, "<a URL>"));
    eprint!("{told}");
    std::process::exit(error.exit_code());
}
