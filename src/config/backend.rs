//! Settings of Clerk's Backend API, and of the Clerk instance to serve.

use anyhow::bail;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};

/// Access to Clerk's Backend API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clerk")]
pub struct Backend {
    /// Secret key of Clerk's Backend API, `sk_…`: with it, the service takes plans from Clerk and repairs accounts
    /// after lost webhooks
    #[arg(long, env, global = true, value_name = "KEY", hide_env_values = true)]
    pub clerk_secret_key: Option<SecretString>,

    /// Clerk instance to serve, `ins_…`; deliveries of other instances are parked [default: the instance of the secret
    /// key, else any]
    #[arg(long, env, global = true, value_name = "INSTANCE")]
    pub clerk_instance: Option<String>,

    /// URL of Clerk's Backend API
    #[arg(
        long,
        env,
        global = true,
        value_name = "URL",
        default_value = "https://api.clerk.com/v1"
    )]
    pub clerk_api_url: String,
}

/// The URL and the secret key of Clerk's Backend API.
#[derive(Debug, Clone)]
pub struct BackendAccess {
    /// The URL, such as `https://api.clerk.com/v1`.
    pub url: String,
    /// The secret key, `sk_…`.
    pub key: SecretString,
}

impl Backend {
    /// The Clerk instance to serve, if it is set.
    pub fn instance(&self) -> anyhow::Result<Option<String>> {
        let named = self.clerk_instance.as_deref().map(str::trim).filter(|id| !id.is_empty());
        let is_id = |id: &str| {
            id.strip_prefix("ins_").is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            })
        };
        match named {
            Some(id) if !is_id(id) => bail!(
                "CLERK_INSTANCE is `{id}`, which is not the id of a Clerk instance: copy the id that begins with \
                 ins_ from the API keys page of Clerk's dashboard, or from `instance_id` of a webhook"
            ),
            named => Ok(named.map(str::to_owned)),
        }
    }

    /// The URL and the secret key of Clerk's Backend API, if a key is set.
    #[must_use]
    pub fn access(&self) -> Option<BackendAccess> {
        let key = self.clerk_secret_key.clone()?;
        let is_set = !key.expose_secret().trim().is_empty();
        is_set.then(|| BackendAccess { url: self.clerk_api_url.clone(), key })
    }
}
