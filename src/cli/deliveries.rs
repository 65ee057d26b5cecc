//! `entitlements deliveries`: looks into the ledger of a running service, and replays.

use super::client::{Service, said};
use crate::api::pb::{
    Delivery, DeliveryFilter, GetDeliveryRequest, ListDeliveriesRequest, ReplayDeliveriesRequest,
    admin_client::AdminClient,
};
use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use std::process::ExitCode;

/// Looks into the ledger.
#[derive(Debug, Args)]
pub(super) struct Deliveries {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List deliveries, newest first: when, what became of it, id, event, subject, why
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        service: Service,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one delivery and its body
    Show {
        /// The svix-id
        id: String,
        #[command(flatten)]
        service: Service,
    },
    /// Read deliveries by today's rules, and apply what was not understood before
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        service: Service,
        /// Tell what would become of them, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which deliveries; without any of these, all.
#[derive(Debug, Args)]
struct Which {
    /// The one with this svix-id
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// About this user or organization
    #[arg(long, value_name = "ID")]
    subject: Option<String>,

    /// With this result: applied, superseded, ignored or parked
    #[arg(long, value_name = "RESULT")]
    result: Option<String>,

    /// Received at or after this instant, as 2026-11-23T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    from: Option<DateTime<Utc>>,

    /// Received before this instant
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

impl Deliveries {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::List { which, service, limit } => list(&which, &service, limit).await,
            Action::Show { id, service } => show(id, &service).await,
            Action::Replay { which, service, dry_run } => replay(&which, &service, dry_run).await,
        }
    }
}

async fn list(which: &Which, service: &Service, limit: usize) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let (mut page_token, mut left) = (String::new(), limit);
    while left > 0 {
        let page_size = u32::try_from(left.min(1000))?;
        let page = ListDeliveriesRequest { filter: Some(which.filter()), page_size, page_token };
        let page = client.list_deliveries(service.request(page)?).await.map_err(|s| said(&s))?;
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

async fn show(svix_id: String, service: &Service) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let request = service.request(GetDeliveryRequest { svix_id })?;
    let found = client.get_delivery(request).await.map_err(|s| said(&s))?.into_inner();
    let delivery = found.delivery.context("the service sent no delivery")?;
    say!("{}", line(&delivery));
    say!("sha256 {}", delivery.body_sha256);
    match found.body {
        Some(body) => say!("{}", String::from_utf8_lossy(&body)),
        None => {
            say!("its body was let go: its retention is over, or whom it is about was deleted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(which: &Which, service: &Service, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let mut page_token = String::new();
    loop {
        let filter = Some(which.filter());
        let page = ReplayDeliveriesRequest { filter, dry_run, page_size: 100, page_token };
        let page = client.replay_deliveries(service.request(page)?).await.map_err(|s| said(&s))?;
        let page = page.into_inner();
        for done in page.replayed {
            let told = [done.svix_id, format!("{} -> {}", done.before, done.after), done.detail];
            say!("{}", told.join("  ").trim_end());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// A delivery in one line.
fn line(delivery: &Delivery) -> String {
    let received = delivery.received_at.as_ref().and_then(|at| {
        DateTime::from_timestamp(at.seconds, at.nanos.unsigned_abs())
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
    });
    let parts = [
        received.as_deref().unwrap_or_default(),
        &delivery.result,
        &delivery.svix_id,
        &delivery.event,
        &delivery.subject,
        &delivery.detail,
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}
