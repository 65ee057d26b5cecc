//! The styles of text in a terminal.

use anstyle::{AnsiColor, Style};

/// What is as it should be.
pub(in crate::cli) const GOOD: Style = AnsiColor::Green.on_default();
/// A text that needs attention.
pub(in crate::cli) const WARN: Style = AnsiColor::Yellow.on_default();
/// What is denied, lost or wrong.
pub(in crate::cli) const BAD: Style = AnsiColor::Red.on_default();
/// A heading.
pub(in crate::cli) const STRONG: Style = Style::new().bold();
/// Details.
pub(in crate::cli) const FAINT: Style = Style::new().dimmed();

/// The text in this style.
pub(in crate::cli) fn paint(style: Style, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{style}{text}{style:#}") }
}
