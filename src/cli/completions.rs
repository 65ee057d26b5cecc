//! `entitlements completions`: prints completion scripts for shells.

use super::{Cli, output::print_text};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use std::process::ExitCode;

/// Prints a script that completes commands and flags.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements completions bash > ~/.local/share/bash-completion/completions/entitlements
  entitlements completions zsh > ~/.zfunc/_entitlements
  entitlements completions fish > ~/.config/fish/completions/entitlements.fish")]
pub(super) struct CompletionsCommand {
    /// Shell that reads the script
    shell: Shell,
}

impl CompletionsCommand {
    pub(super) fn run(&self) -> ExitCode {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "entitlements", &mut script);
        print_text(&String::from_utf8_lossy(&script));
        ExitCode::SUCCESS
    }
}
