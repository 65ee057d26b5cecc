//! `entitlements deliveries`: lists, shows and replays the deliveries of a running service.

use super::{
    client::{ServiceAddress, status_error},
    output::{BAD, Format, GOOD, ProtoJson, Table, WARN, paint, print_line, say_json},
    render::{counted, instant},
    times::{parse_past, timestamp},
};
use crate::api::pb::{
    Delivery, DeliveryFilter, GetDeliveryRequest, ListDeliveriesRequest, ReplayDeliveriesRequest,
    admin_client::AdminClient,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;
use std::process::ExitCode;

/// The subcommands of `deliveries`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements deliveries list --subject user_2x --from yesterday
  entitlements deliveries list --result parked
  entitlements deliveries replay --result parked --dry-run")]
pub(super) struct DeliveriesCommand {
    #[command(subcommand)]
    action: DeliveriesAction,

    #[command(flatten)]
    service: ServiceAddress,
}

#[derive(Debug, Subcommand)]
enum DeliveriesAction {
    /// List deliveries, newest first: time, result, id, event, subject, detail
    List {
        #[command(flatten)]
        which: Which,
        /// Maximum number of deliveries to list
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one delivery and its body
    Show {
        /// svix-id of the delivery
        id: String,
    },
    /// Read recorded deliveries again with the release that runs now, and apply those that it can parse
    Replay {
        #[command(flatten)]
        which: Which,
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

    /// Only deliveries received at or after this time: a date, an instant, `yesterday`, or `3h` for 3 hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    from: Option<DateTime<Utc>>,

    /// Only deliveries received before this time
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    until: Option<DateTime<Utc>>,
}

impl Which {
    fn filter(&self) -> DeliveryFilter {
        DeliveryFilter {
            svix_id: self.id.clone().unwrap_or_default(),
            subject: self.subject.clone().unwrap_or_default(),
            result: self.result.clone().unwrap_or_default(),
            received_from: self.from.map(timestamp),
            received_until: self.until.map(timestamp),
        }
    }
}

impl DeliveriesCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let Self { action, service } = self;
        match action {
            DeliveriesAction::List { which, limit } => list(&which, &service, limit, format).await,
            DeliveriesAction::Show { id } => show(id, &service, format).await,
            DeliveriesAction::Replay { which, dry_run } => {
                replay(&which, &service, dry_run, format).await
            }
        }
    }
}

async fn list(
    which: &Which,
    service: &ServiceAddress,
    limit: usize,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let (json, mut found, mut page_token) = (ProtoJson::new(), Vec::new(), String::new());
    while found.len() < limit {
        let page_size = u32::try_from((limit - found.len()).min(1000))?;
        let page = ListDeliveriesRequest { filter: Some(which.filter()), page_size, page_token };
        let page =
            client.list_deliveries(service.request(page)?).await.map_err(|s| status_error(&s))?;
        let page = page.into_inner();
        found.extend(page.deliveries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match format {
        Format::Json => found.iter().for_each(|one| say_json(&json.of("Delivery", one))),
        Format::Text => {
            let mut table = table();
            for delivery in &found {
                table.push(row(delivery));
            }
            table.print();
            say!("{}", summary(found.len(), !page_token.is_empty()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(count: usize, has_more: bool) -> String {
    match (counted(count, "delivery"), has_more) {
        (count, true) => format!("the newest {count}: for more, use a larger --limit"),
        (count, false) => count,
    }
}

async fn show(
    svix_id: String,
    service: &ServiceAddress,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let request = service.request(GetDeliveryRequest { svix_id })?;
    let found = client.get_delivery(request).await.map_err(|s| status_error(&s))?.into_inner();
    let delivery = found.delivery.context("the answer of the service has no delivery")?;
    let body = found.body.map(|body| String::from_utf8_lossy(&body).into_owned());
    if format == Format::Json {
        let delivery = ProtoJson::new().of("Delivery", &delivery);
        say_json(&json!({ "delivery": delivery, "body": body }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table();
    table.push(row(&delivery));
    table.print();
    say!("sha256 {}", delivery.body_sha256);
    match body {
        Some(body) => print_line(&body),
        None => say!("the body was removed: its retention is over, or its subject was deleted"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(
    which: &Which,
    service: &ServiceAddress,
    dry_run: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut client = AdminClient::new(service.connect().await?);
    let (json, mut page_token, mut count, mut changed) = (ProtoJson::new(), String::new(), 0, 0);
    loop {
        let filter = Some(which.filter());
        let page = ReplayDeliveriesRequest { filter, dry_run, page_size: 100, page_token };
        let page =
            client.replay_deliveries(service.request(page)?).await.map_err(|s| status_error(&s))?;
        let page = page.into_inner();
        count += page.replayed.len();
        changed += page.replayed.iter().filter(|done| done.before != done.after).count();
        for done in page.replayed {
            if format == Format::Json {
                say_json(&json.of("ReplayedDelivery", &done));
            } else {
                let change = format!("{} -> {}", done.before, done.after);
                say!("{}", [done.svix_id, change, done.detail].join("  ").trim_end());
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if format == Format::Text {
        let verb = if dry_run { "would be read again" } else { "read again" };
        say!("{} {verb}, {changed} with another result", counted(count, "delivery"));
    }
    Ok(ExitCode::SUCCESS)
}

fn table() -> Table {
    Table::new(&["received", "result", "id", "event", "subject", "detail"])
}

fn row(delivery: &Delivery) -> [String; 6] {
    let Delivery { received_at, result, svix_id, event, subject, detail, .. } = delivery.clone();
    let style = match &*result {
        "applied" => GOOD,
        "parked" => BAD,
        _ => WARN,
    };
    [instant(received_at), paint(style, &result), svix_id, event, subject, detail]
}
