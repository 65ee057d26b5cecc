//! The output of the commands: text for people, in colour and wrapped to the terminal, or JSON for machines.
//!
//! Colours are written always; the stream removes them where the output is no terminal, or where `NO_COLOR` or
//! `--color never` is set. Text is wrapped between words, never within one.

mod proto_json;
mod style;
mod table;

pub(super) use proto_json::ProtoJson;
pub(super) use style::{BAD, FAINT, GOOD, STRONG, WARN, paint};
pub(super) use table::Table;

use serde::Serialize;
use std::{
    borrow::Cow,
    env, fmt,
    io::{self, IsTerminal, Write},
    process::exit,
};
use textwrap::{Options, WordSeparator, WordSplitter, wrap};

/// `println!` for text that is wrapped to the terminal, and whose output may be closed early, as `head` does.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::say(format_args!($($text)*)) };
}

/// The indentation of the continuation of a wrapped line, beyond that of the line.
const CONTINUATION: &str = "    ";

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Text, for people.
    Text,
    /// One JSON object in a line, for machines.
    Json,
}

/// Prints lines of text, wrapped to the terminal.
pub(super) fn say(text: fmt::Arguments<'_>) {
    let (text, width) = (text.to_string(), width());
    for line in text.split('\n') {
        match width {
            Some(width) => wrapped(line, width).iter().for_each(|line| print_line(line)),
            None => print_line(line),
        }
    }
}

/// Prints a value as JSON in one line.
pub(super) fn say_json(value: &impl Serialize) {
    print_line(&serde_json::to_string(value).expect("a value of our own is JSON"));
}

/// Prints a line as it is.
pub(super) fn print_line(line: &str) {
    print_text(&format!("{}\n", line.trim_end()));
}

/// Prints text as it is. If the output is closed, ends the process with the exit code that SIGPIPE would cause.
#[expect(clippy::disallowed_methods, reason = "the output is closed")]
pub(super) fn print_text(text: &str) {
    match anstream::stdout().write_all(text.as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(128 + 13),
        Err(error) => {
            complain(&format!("error: cannot print: {error}"));
            exit(2);
        }
    }
}

/// Prints a line to standard error. If that is closed, nobody reads it.
pub(super) fn complain(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// The width to wrap text to: `COLUMNS`, else the width of the terminal; `None` if the output is no terminal.
fn width() -> Option<usize> {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let columns = columns.filter(|columns| *columns > 0);
    let terminal = || {
        let size = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
        size.map(|(width, _)| usize::from(width.0))
    };
    columns.or_else(terminal)
}

fn wrapped(line: &str, width: usize) -> Vec<String> {
    let text = line.trim_start();
    let indent = &line[..line.len() - text.len()];
    let continuation = format!("{indent}{CONTINUATION}");
    let options = Options::new(width)
        .initial_indent(indent)
        .subsequent_indent(&continuation)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    wrap(text, options).into_iter().map(Cow::into_owned).collect()
}
