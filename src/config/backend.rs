//! Clerk's Backend API, and the Clerk instance that is served.

use crate::clerk::Api;
use anyhow::bail;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};

/// How to ask Clerk itself.
#[derive(Debug, Clone, Args)]
pub struct Backend {
    /// Secret key of Clerk's Backend API, `sk_…`: with it, the catalog is refreshed from Clerk and accounts heal
    #[arg(long, env, value_name = "KEY", hide_env_values = true)]
    pub clerk_secret_key: Option<SecretString>,

    /// The Clerk instance to serve, `ins_…`: deliveries of others are parked [default: that of the secret key, else any]
    #[arg(long, env, value_name = "INSTANCE")]
    pub clerk_instance: Option<String>,

    /// Where Clerk's Backend API is
    #[arg(long, env, value_name = "URL", default_value = "https://api.clerk.com/v1")]
    pub clerk_api_url: String,
}

impl Backend {
    /// The instance to serve, if one is named.
    pub fn instance(&self) -> anyhow::Result<Option<String>> {
        let named = self.clerk_instance.as_deref().map(str::trim).filter(|id| !id.is_empty());
        let is_id = |id: &str| {
            id.strip_prefix("ins_").is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            })
        };
        match named {
            Some(id) if !is_id(id) => bail!(
                "CLERK_INSTANCE is `{id}`, which is no id of a Clerk instance: copy the one that begins with ins_ from \
                 the API keys page of Clerk's dashboard, or from `instance_id` of a webhook"
            ),
            named => Ok(named.map(str::to_owned)),
        }
    }

    /// Asks with the key, if there is one.
    pub fn api(&self) -> anyhow::Result<Option<Api>> {
        let key =
            self.clerk_secret_key.as_ref().filter(|key| !key.expose_secret().trim().is_empty());
        Ok(key.map(|key| Api::new(&self.clerk_api_url, key)).transpose()?)
    }
}
