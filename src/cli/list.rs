//! `entitlements list`: what a user and an organization have.

use super::{
    client::{ServiceAddress, status_error},
    output::{FAINT, Format, ProtoJson, STRONG, Table, paint, say_json},
    render::{counted, instant, reason},
};
use crate::api::pb::{
    Account, Item, ListEntitlementsRequest, Reason, entitlements_client::EntitlementsClient,
};
use clap::Args;
use std::process::ExitCode;

/// Prints the features that each subject may use, and its subscription items.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  entitlements list --user user_2x
  entitlements list --user user_2x --org org_5y --json")]
pub(super) struct ListCommand {
    /// Id of the user, `user_…`
    #[arg(long, value_name = "ID", required_unless_present = "org")]
    user: Option<String>,

    /// Id of the organization, `org_…`
    #[arg(long, value_name = "ID")]
    org: Option<String>,

    #[command(flatten)]
    service: ServiceAddress,
}

impl ListCommand {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let mut client = EntitlementsClient::new(self.service.connect().await?);
        let request = self.service.request(ListEntitlementsRequest {
            user_id: self.user.unwrap_or_default(),
            organization_id: self.org.unwrap_or_default(),
            ..ListEntitlementsRequest::default()
        })?;
        let listed = client.list_entitlements(request).await;
        let listed = listed.map_err(|status| status_error(&status))?.into_inner();
        match format {
            Format::Json => say_json(&ProtoJson::new().of("ListEntitlementsResponse", &listed)),
            Format::Text => listed.accounts.iter().for_each(print),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(account: &Account) {
    let Account { subject, entitlements, items, denied, .. } = account;
    let default_plan = match &*account.default_plan {
        "" => String::new(),
        plan => format!(", with the default plan {plan}"),
    };
    let deleted = account.deleted_at.map(|at| format!(", deleted {}", instant(Some(at))));
    let features = counted(entitlements.len(), "feature");
    let title = paint(STRONG, subject);
    say!("{title}: {features}{default_plan}{}", deleted.unwrap_or_default());
    let mut table = Table::new(&["feature", "limit", "plan", "valid until", "reason"]);
    for found in entitlements {
        let limit = found.limit.map(|limit| limit.to_string()).unwrap_or_default();
        let until = found.valid_until.map(|until| instant(Some(until))).unwrap_or_default();
        let reason = reason(found.reason(), true);
        table.push([found.feature.clone(), limit, found.plan.clone(), until, reason]);
    }
    for found in denied {
        let until = found.valid_until.map(|until| instant(Some(until))).unwrap_or_default();
        let reason = reason(Reason::OverrideDenies, false);
        table.push([found.feature.clone(), String::new(), String::new(), until, reason]);
    }
    table.print();
    if items.is_empty() {
        return say!("{}", paint(FAINT, "no subscription item was ever received"));
    }
    say!("");
    let mut table = Table::new(&["item", "plan", "status", "period end", "canceled", "reason"]);
    for item in items {
        table.push(row(item));
    }
    table.print();
}

fn row(item: &Item) -> [String; 6] {
    let at = |at: Option<_>| at.map(|at| instant(Some(at))).unwrap_or_default();
    let grants = item.live && item.reason() != Reason::UnknownPlan;
    let reason = reason(item.reason(), grants);
    let (id, plan, status) = (item.id.clone(), item.plan.clone(), item.status.clone());
    [id, plan, status, at(item.period_end), at(item.canceled_at), reason]
}
