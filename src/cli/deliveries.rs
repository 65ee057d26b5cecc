//! `entitlements deliveries`: lists, shows and replays the deliveries of a running service.

use super::{
    client::{ServiceAddress, status_error},
    render::instant,
};
use crate::api::pb::{
    Delivery, DeliveryFilter, GetDeliveryRequest, ListDeliveriesRequest, ReplayDeliveriesRequest,
    admin_client::AdminClient,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use std::process::ExitCode;

/// The subcommands of `deliveries`.
#[derive(Debug, Args)]
pub(super) struct DeliveriesCommand {
    #[command(subcommand)]
    action: DeliveriesAction,
}

#[derive(Debug, Subcommand)]
enum DeliveriesAction {
    /// List deliveries, newest first: time, result, id, event, subject, detail
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        service: ServiceAddress,
        /// Maximum number of deliveries to list
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one delivery and its body
    Show {
        /// svix-id of the delivery
        id: String,
        #[command(flatten)]
        service: ServiceAddress,
    },
    /// Read recorded deliveries again with the release that runs now, and apply those that it can parse
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        service: ServiceAddress,
        /// Show the results without changing anything
        #[arg(long)]
        dry_run: bool,
    },
}

/// The filter of deliveries; without any flag, all deliveries match.
#[derive(Debug, Args)]
struct Which {
    /// Only the delivery with this svix-id
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// Only deliveries about this user or organization
    #[arg(long, value_name = "ID")]
    subject: Option<String>,

    /// Only deliveries with this result: applied, superseded, ignored or parked
    #[arg(long, value_name = "RESULT")]
    result: Option<String>,

    /// Only deliveries received at or after this time, as 2026-11-23T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    from: Option<DateTime<Utc>>,

    /// Only deliveries received before this time
    #[arg(long, value_name = "INSTANT")]
    until: Option<DateTime<Utc>>,
}

impl Which {
    fn filter(&self) -> DeliveryFilter {
        let instant = |at: Option<DateTime<Utc>>| {
            at.map(|at| Timestamp { seconds: at.timestamp(), nanos: 0 })
        };
        DeliveryFilter {
            svix_id: self.id.clone().unwrap_or_default(),
            subject: self.subject.clone().unwrap_or_default(),
            result: self.result.clone().unwrap_or_default(),
            received_from: instant(self.from),
            received_until: instant(self.until),
        }
    }
}

impl DeliveriesCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            DeliveriesAction::List { which, service, limit } => list(&which, &service, limit).await,
            DeliveriesAction::Show { id, service } => show(id, &service).await,
            DeliveriesAction::Replay { which, service, dry_run } => {
                replay(&which, &service, dry_run).await
            }
        }
    }
}

async fn list(which: &Which, service: &ServiceAddress, limit: usize) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let (mut page_token, mut left) = (String::new(), limit);
    while left > 0 {
        let page_size = u32::try_from(left.min(1000))?;
        let page = ListDeliveriesRequest { filter: Some(which.filter()), page_size, page_token };
        let page =
            client.list_deliveries(service.request(page)?).await.map_err(|s| status_error(&s))?;
        let page = page.into_inner();
        page.deliveries.iter().for_each(|delivery| say!("{}", line(delivery)));
        left = left.saturating_sub(page.deliveries.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(svix_id: String, service: &ServiceAddress) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let request = service.request(GetDeliveryRequest { svix_id })?;
    let found = client.get_delivery(request).await.map_err(|s| status_error(&s))?.into_inner();
    let delivery = found.delivery.context("the answer of the service has no delivery")?;
    say!("{}", line(&delivery));
    say!("sha256 {}", delivery.body_sha256);
    match found.body {
        Some(body) => say!("{}", String::from_utf8_lossy(&body)),
        None => {
            say!("the body was removed: its retention is over, or its subject was deleted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(
    which: &Which,
    service: &ServiceAddress,
    dry_run: bool,
) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let mut page_token = String::new();
    loop {
        let filter = Some(which.filter());
        let page = ReplayDeliveriesRequest { filter, dry_run, page_size: 100, page_token };
        let page =
            client.replay_deliveries(service.request(page)?).await.map_err(|s| status_error(&s))?;
        let page = page.into_inner();
        for done in page.replayed {
            let parts = [done.svix_id, format!("{} -> {}", done.before, done.after), done.detail];
            say!("{}", parts.join("  ").trim_end());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Renders a delivery in one line.
fn line(delivery: &Delivery) -> String {
    let parts = [
        &*instant(delivery.received_at),
        &delivery.result,
        &delivery.svix_id,
        &delivery.event,
        &delivery.subject,
        &delivery.detail,
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}
