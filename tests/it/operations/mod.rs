//! The command line, packaging, logs, metrics and traces.

pub mod catalog_import;
pub mod catalog_numbers;
pub mod catalog_types;
pub mod catalogs;
pub mod chart;
pub mod command_line;
pub mod compose;
pub mod dashboards;
pub mod doctor;
pub mod first_hour;
pub mod logs;
pub mod metrics;
pub mod migrate;
pub mod outputs;
pub mod override_commands;
pub mod packaging;
pub mod settings;
pub mod soak;
pub mod traces;
pub mod wrong_settings;
