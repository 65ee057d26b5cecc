//! Parses flags and variables. A variable that is empty or blank counts as unset: Docker Compose and other tools pass
//! an unset variable as an empty one. A secret may also be in a file: without `X`, the content of the file that `X_FILE`
//! names is the value of `X`.

use super::{Cli, output::complain, variables};
use clap::{
    Arg, ColorChoice, Command, CommandFactory, FromArgMatches, Parser,
    builder::Resettable,
    error::{ContextKind, ErrorKind},
};
use std::{env, ffi::OsStr, fs, io, path::Path};

/// The suffix of a variable that names the file with a secret.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// Parses the command line of this process. Prints help or an error, if there is one to print, and ends the process.
pub(super) fn parse() -> Cli {
    let flags: Vec<_> =
        env::args_os().skip(1).map(|flag| flag.to_string_lossy().into_owned()).collect();
    let mut command = without_empty_variables(Cli::command().color(colour(&flags)));
    if let Err(problem) = fill_secrets(&mut command, &flags) {
        Cli::command().error(ErrorKind::Io, problem).exit();
    }
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp => Cli::parse(), // so that help lists empty variables too
        _ => exit_with(error.format(&mut command), &flags),
    })
}

/// The colours of errors and of help, which are printed before the flags are parsed.
fn colour(flags: &[String]) -> ColorChoice {
    let given = flags.iter().position(|flag| flag == "--color").and_then(|at| flags.get(at + 1));
    let given = given.map(String::as_str);
    let joined = flags.iter().find_map(|flag| flag.strip_prefix("--color="));
    match given.or(joined) {
        Some("never") => ColorChoice::Never,
        Some("always") => ColorChoice::Always,
        _ => ColorChoice::Auto,
    }
}

fn without_empty_variables(command: Command) -> Command {
    let unset = |arg: Arg| match arg.get_env().filter(|name| !is_set(name)) {
        Some(_) => arg.env(Resettable::Reset),
        None => arg,
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

fn is_set(name: &OsStr) -> bool {
    env::var_os(name).is_some_and(|value| !value.to_string_lossy().trim().is_empty())
}

/// Takes the secrets of the called command that no flag and no variable gives from the files that variables with the suffix
/// `_FILE` name. `command` has no more variables that are not set.
fn fill_secrets(command: &mut Command, flags: &[String]) -> Result<(), String> {
    let known = Cli::command();
    let mut called = (&known, &mut *command);
    for flag in flags {
        let sub = called.0.find_subcommand(flag);
        if let Some(sub) = sub {
            let name = sub.get_name().to_owned();
            let Some(here) = called.1.find_subcommand_mut(&name) else { break };
            called = (sub, here);
            fill_secrets_of(called.0, called.1, flags)?;
        }
    }
    Ok(())
}

fn fill_secrets_of(known: &Command, here: &mut Command, flags: &[String]) -> Result<(), String> {
    for arg in known.get_arguments().filter(|arg| arg.is_hide_env_values_set()) {
        let (Some(name), Some(long)) = (arg.get_env(), arg.get_long()) else { continue };
        let flag = format!("--{long}");
        let is_given = flags.iter().any(|given| given.split('=').next() == Some(&*flag));
        if is_set(name) || is_given {
            continue;
        }
        let name = format!("{}{FILE_SUFFIX}", name.to_string_lossy());
        if let Some(file) = env::var_os(&name).filter(|_| is_set(OsStr::new(&name))) {
            let secret = secret_in(Path::new(&file));
            let secret = secret.map_err(|error| format!("{name}: {}: {error}", file.display()))?;
            *here = std::mem::take(here).mut_arg(arg.get_id().as_str(), |arg| {
                arg.default_value(secret).hide_default_value(true)
            });
        }
    }
    Ok(())
}

fn secret_in(file: &Path) -> io::Result<String> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("not a regular file")); // reading a pipe could block forever
    }
    let secret = fs::read_to_string(file)?.trim().to_owned();
    if secret.is_empty() { Err(io::Error::other("the file is empty")) } else { Ok(secret) }
}

/// Prints the error and ends the process. Arguments that contain a URL are masked: the URL can contain a password.
fn exit_with(mut error: clap::Error, flags: &[String]) -> ! {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        error.remove(ContextKind::Usage); // it would list variables that are set as required flags
    }
    let text = error.render().to_string();
    let named = variables::name_variable(&text, flags);
    let urls = flags.iter().filter(|argument| argument.contains("://"));
    let masked = urls.fold(named, |text, url| text.replace(&**url, "<a URL>"));
    if masked == text {
        error.exit();
    }
    complain(masked.trim_end());
    #[expect(clippy::disallowed_methods, reason = "nothing has started yet")]
    std::process::exit(error.exit_code());
}
