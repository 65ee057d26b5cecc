//! The command line, packaging, logs, metrics and traces.

pub mod command_line;
pub mod dashboards;
pub mod doctor;
pub mod logs;
pub mod metrics;
pub mod migrate;
pub mod override_commands;
pub mod packaging;
pub mod settings;
pub mod soak;
pub mod traces;
pub mod wrong_settings;
