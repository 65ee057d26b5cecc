//! A load of deliveries with Svix signatures, from senders that each wait for the response.

use super::{LOAD, SECRET, drive::as_f64, pinned};
use anyhow::{bail, ensure};
use chrono::Utc;
use entitlements::clerk::SigningSecret;
use serde::{Deserialize, Serialize};
use std::{
    env,
    process::Stdio,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

const PAYLOAD: &str = include_str!("../../tests/payloads/subscriptionItem.active.json");

/// The target, the senders and the subjects of a load.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    pub address: String,
    pub senders: u64,
    pub subjects: u64,
    pub seconds: f64,
}

/// The deliveries applied per second.
pub fn run(plan: &Plan) -> anyhow::Result<f64> {
    let plan = serde_json::to_string(plan)?;
    let output = pinned(LOAD, env::current_exe()?)
        .args(["deliver", &plan])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the load failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs a load in its process.
pub(super) async fn serve(plan: &str) -> anyhow::Result<()> {
    let plan: Rc<Plan> = Rc::new(serde_json::from_str(plan)?);
    let (local, began) = (LocalSet::new(), Instant::now());
    let senders: Vec<_> =
        (0..plan.senders).map(|number| local.spawn_local(send(plan.clone(), number))).collect();
    local.await;
    let seconds = began.elapsed().as_secs_f64();
    let mut applied = 0;
    for sender in senders {
        applied += sender.await??;
    }
    println!("{}", as_f64(applied) / seconds);
    Ok(())
}

/// Sends one delivery after another, and returns the number applied.
async fn send(plan: Rc<Plan>, number: u64) -> anyhow::Result<u64> {
    let mut io = TcpStream::connect(&plan.address).await?;
    io.set_nodelay(true)?;
    let template = Template::new()?;
    let secret = SigningSecret::parse(&SECRET.to_owned().into())?;
    let (end, mut applied) = (Instant::now() + Duration::from_secs_f64(plan.seconds), 0);
    let mut read = Vec::new();
    while Instant::now() < end {
        let id = format!("msg_{}", uuid::Uuid::now_v7().simple());
        let about = (applied * plan.senders + number).wrapping_mul(7_919) % plan.subjects;
        let (body, now) = (template.about(about), Utc::now().timestamp());
        let signature = secret.sign(&id, now, &body);
        let request = format!(
            "POST /webhooks/clerk HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nsvix-id: {id}\r\n\
             svix-timestamp: {now}\r\nsvix-signature: {signature}\r\n\r\n{body}",
            plan.address,
            body.len(),
        );
        io.write_all(request.as_bytes()).await?;
        read.clear();
        while !read.ends_with(b"}\n") {
            ensure!(io.read_buf(&mut read).await? > 0, "the service has closed a connection");
        }
        let answer = String::from_utf8_lossy(&read);
        if !(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"applied\"")) {
            bail!("a delivery was not applied: {answer}");
        }
        applied += 1;
    }
    Ok(applied)
}

/// Clerk's event about a change of the first item of a subject, dated now.
pub fn body(subject: u64) -> anyhow::Result<String> {
    Ok(Template::new()?.about(subject))
}

/// The payload with blanks, so that a sender fills it in cheaply.
struct Template(String);

impl Template {
    fn new() -> anyhow::Result<Self> {
        let mut body: serde_json::Value = serde_json::from_str(PAYLOAD)?;
        body["timestamp"] = "{now}".into();
        let data = &mut body["data"];
        data["id"] = "csub_item_1{subject}".into();
        data["updated_at"] = "{now}".into();
        data["payer"]["user_id"] = "user_2{subject}".into();
        Ok(Self(body.to_string().replace("\"{now}\"", "{now}")))
    }

    fn about(&self, subject: u64) -> String {
        let now = Utc::now().timestamp_millis().to_string();
        self.0.replace("{now}", &now).replace("{subject}", &format!("{subject:026}"))
    }
}
