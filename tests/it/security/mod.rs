//! Tests of attackers, callers and secrets.

pub mod api_keys;
pub mod api_keys_http;
pub mod attacks;
pub mod caller_share;
pub mod clerk_sdk_sessions;
pub mod connection_limits;
pub mod database_rights;
pub mod database_strangers;
pub mod database_url_leaks;
pub mod key_file_in_force;
pub mod key_set_fetch;
pub mod leak_checks;
pub mod misbehaving_services;
pub mod revoked_streams;
pub mod session_tokens;
pub mod shared_machine;
pub mod sql_limits;
pub mod sql_page;
pub mod sql_sessions;
pub mod tls;
