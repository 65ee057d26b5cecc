//! The banner of `dev`: where everything is, and commands to try.

use super::output::{FAINT, GOOD, STRONG, paint};
use crate::{
    app::Bound,
    config::{CatalogUse, Config, Protocol},
};
use embedded_postgres::Embedded;
use std::{convert::Infallible, env, io::Write};

/// The user of the examples of `send`.
const USER: &str = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";

/// The contents of the banner, besides the addresses.
pub(super) struct Banner {
    /// The command that runs this binary.
    command: String,
    catalog: String,
    /// Whether an edit of the catalog file comes into force.
    follows_catalog: bool,
    database: Option<String>,
    serves_ofrep: bool,
    serves_connect: bool,
}

impl Banner {
    pub(super) fn new(config: &Config, embedded: Option<&Embedded>) -> Self {
        Self {
            command: command(),
            catalog: config.catalog.as_ref().map(|(_, name)| name.clone()).unwrap_or_default(),
            follows_catalog: matches!(config.catalog_use, CatalogUse::Apply(_)),
            database: embedded.map(|embedded| embedded.url("entitlements")),
            serves_ofrep: config.protocols.contains(&Protocol::Ofrep),
            serves_connect: config.protocols.contains(&Protocol::Connect),
        }
    }

    /// Prints the banner when the service is ready; never returns.
    pub(super) async fn print_when(
        &self,
        ready: impl Future<Output = ()>,
        bound: Bound,
    ) -> Infallible {
        ready.await;
        self.print(bound);
        std::future::pending().await
    }

    fn print(&self, bound: Bound) {
        let mut lines = vec![String::new(), paint(GOOD, "entitlements is ready")];
        lines.extend(self.addresses(bound));
        lines.extend([String::new(), paint(STRONG, "Try, in another terminal")]);
        lines.extend(self.commands(bound));
        lines.extend([String::new(), paint(STRONG, "Receive Clerk's own events, by one of")]);
        lines.extend(relays(bound));
        // Not wrapped: commands are to be copied.
        let text = lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
        let _ = anstream::stdout().write_all(text.as_bytes()); // `dev` runs on if nobody reads it
    }

    fn addresses(&self, Bound { api, webhook, operator }: Bound) -> Vec<String> {
        let follows =
            if self.follows_catalog { " (an edit is in force a second later)" } else { "" };
        let http = match (self.serves_connect, self.serves_ofrep) {
            (true, true) => ", Connect, OFREP at /ofrep/v1, AuthZEN at /access/v1",
            (true, false) => ", Connect",
            (false, true) => ", OFREP at /ofrep/v1",
            (false, false) => "",
        };
        let lines = [
            Some(("API", format!("{api} (gRPC with reflection{http})"))),
            Some(("webhooks", format!("http://{webhook}/webhooks/clerk"))),
            Some(("metrics", format!("http://{operator}/metrics"))),
            Some(("catalog", format!("{}{follows}", self.catalog))),
            self.database.clone().map(|url| ("database", url)),
        ];
        let line = |(name, text)| format!("  {}{text}", paint(FAINT, &format!("{name:<10}")));
        lines.into_iter().flatten().map(line).collect()
    }

    fn commands(&self, Bound { api, webhook, .. }: Bound) -> Vec<String> {
        let me = &self.command;
        let to = match webhook.port() {
            8080 => String::new(),
            _ => format!(" --url http://{webhook}/webhooks/clerk"),
        };
        let at = if api.port() == 50051 { String::new() } else { format!(" --addr http://{api}") };
        let mut lines = vec![
            format!("  {me} send --example active{to}"),
            format!("  {me} check export --user {USER}{at}"),
            format!("  {me} list --user {USER}{at}"),
            format!(
                "  grpcurl -plaintext -emit-defaults -d '{{\"user_id\":\"{USER}\",\"feature\":\"export\"}}' \\"
            ),
            format!("    {api} entitlements.v1.Entitlements/CheckFeature"),
        ];
        if self.serves_connect {
            let method = "entitlements.v1.Entitlements/CheckFeature";
            lines.push(format!(
                "  curl -s http://{api}/{method} -H 'content-type: application/json' \\"
            ));
            lines.push(format!("    -d '{{\"userId\":\"{USER}\",\"feature\":\"export\"}}'"));
        }
        lines
    }
}

/// The commands that bring Clerk's events to this machine.
fn relays(Bound { webhook, .. }: Bound) -> Vec<String> {
    let url = format!("http://{webhook}/webhooks/clerk");
    vec![
        format!("  npx clerk@latest webhooks listen --forward-to {url}"),
        format!("  svix listen {url}"),
        format!("  cloudflared tunnel --url http://{webhook}"),
        "  Add the URL that it prints (a tunnel: with /webhooks/clerk) as an endpoint in Clerk's dashboard. Then set"
            .into(),
        "  CLERK_WEBHOOK_SIGNING_SECRET to the secret of that endpoint, and start `dev` again.".into(),
        String::new(),
    ]
}

/// The command that runs this binary: as it was called, or through cargo.
fn command() -> String {
    match env::var_os("CARGO") {
        Some(_) => "cargo run -q --".into(),
        None => env::args().next().unwrap_or_else(|| "entitlements".into()),
    }
}
