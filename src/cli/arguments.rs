//! Parses flags and variables. A variable that is empty or blank counts as unset: Docker Compose and other tools pass
//! an unset variable as an empty one.

use super::{Cli, variables};
use clap::{
    Arg, Command, CommandFactory, FromArgMatches, Parser,
    builder::Resettable,
    error::{ContextKind, ErrorKind},
};
use std::env;

/// Parses the command line of this process. Prints help or an error, if there is one to print, and ends the process.
pub(super) fn parse() -> Cli {
    let mut command = without_empty_variables(Cli::command());
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp => Cli::parse(), // so that help lists empty variables too
        _ => exit_with(error.format(&mut command), &command),
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

/// Prints the error and ends the process. Arguments that contain a URL are masked: the URL can contain a password.
fn exit_with(mut error: clap::Error, command: &Command) -> ! {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        error.remove(ContextKind::Usage); // it would list variables that are set as required flags
    }
    let flags: Vec<_> = env::args().skip(1).collect();
    let text = error.render().to_string();
    let named = variables::name_variable(&text, command, &flags);
    let urls = flags.iter().filter(|argument| argument.contains("://"));
    let masked = urls.fold(named, |text, url| text.replace(&**url, "<a URL>"));
    if masked == text {
        error.exit();
    }
    eprint!("{masked}");
    #[expect(clippy::disallowed_methods, reason = "nothing has started yet")]
    std::process::exit(error.exit_code());
}
