//! `entitlements keys`: makes, lists and revokes API keys, in the file of callers; says whether a running service has
//! the edited file in force.

use crate::{
    cli::probe,
    config::address,
    server::auth::{KeyFile, Scope, fingerprint},
};
use anyhow::Context;
use clap::{Args, Subcommand};
use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};
use tokio::time::{Instant, sleep};

/// How long a service may take to read an edited file: it looks every half second.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait before its metrics are asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The gauge that tells which content a service has in force.
const IN_FORCE: &str = "entitlements_callers_in_force";

/// Works on API keys.
#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it: the file keeps only its hash, so nobody can print it again
    Create {
        /// Whose key it is: 1 to 40 of a-z, 0-9 and `-`
        name: String,
        /// What it may do; can be given several times
        #[arg(long, value_name = "SCOPE", required = true)]
        scope: Vec<Scope>,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        service: Running,
    },
    /// List the keys: name, scopes, when they were made
    List {
        #[command(flatten)]
        file: File,
    },
    /// Take a key out: it stops working within a second where a service reads this file, also on open connections and
    /// streams; exits with 1 if the service on this machine has another content in force
    Revoke {
        /// Whose key it is
        name: String,
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        service: Running,
    },
}

#[derive(Debug, Args)]
struct File {
    /// The file of callers; `create` makes it if it is absent
    #[arg(long, env, value_name = "FILE")]
    callers: PathBuf,
}

/// The service on this machine that is asked whether it has the file in force.
#[derive(Debug, Args)]
struct Running {
    /// Where `serve` on this machine answers metrics, to ask whether it has the file in force
    #[arg(long, env, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:9090")]
    internal_listen: SocketAddr,

    /// Asks by TLS, as `serve` answers with this setting; the file itself is not read
    #[arg(long, env, value_name = "FILE")]
    internal_tls_cert: Option<PathBuf>,
}

/// What the service on this machine says of an edited file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    InForce,
    /// The service reads another file, or cannot use this one.
    NotInForce,
    /// The service has no file of callers.
    NoFile,
    /// No service answers.
    Nothing,
}

impl Keys {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Create { name, mut scope, file, service } => {
                scope.dedup();
                let key = KeyFile::open(&file.callers)?.create(&name, &scope)?;
                say!("{key}");
                eprintln!("Keep it: {} has only its hash.", file.callers.display());
                service.report(&file).await?;
            }
            Action::List { file } => {
                for entry in KeyFile::open(&file.callers)?.list()? {
                    let scopes: Vec<_> = entry.scopes.iter().map(ToString::to_string).collect();
                    let parts = [entry.name, scopes.join(","), entry.created.unwrap_or_default()];
                    say!("{}", parts.join("  ").trim_end());
                }
            }
            Action::Revoke { name, file, service } => {
                KeyFile::open(&file.callers)?.revoke(&name)?;
                eprintln!("The key `{name}` is no longer in {}.", file.callers.display());
                let answer = service.report(&file).await?;
                return Ok(ExitCode::from(u8::from(answer == Answer::NotInForce)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Running {
    /// Says in words whether the edited file is in force, or how to find out.
    async fn report(&self, file: &File) -> anyhow::Result<Answer> {
        let path = file.callers.display();
        let content = fs::read(&file.callers).with_context(|| format!("cannot read {path}"))?;
        let expected = fingerprint(&content);
        let service = probe::url(self.internal_listen, self.internal_tls_cert.is_some());
        let answer = ask(&service, expected).await;
        match answer {
            Answer::InForce => eprintln!(
                "In force on {service}. Other replicas have it in force when their metric {IN_FORCE} is {expected}."
            ),
            Answer::NotInForce => eprintln!(
                "NOT in force on {service}: that service reads another file, or cannot read or use this one. Its log \
                 says which; in a container, mount the folder of {path}, not the file. Its metric {IN_FORCE} must \
                 become {expected}."
            ),
            Answer::NoFile => eprintln!(
                "The service on {service} has no file of callers: start it with --callers {path}."
            ),
            Answer::Nothing => eprintln!(
                "No service answers on {service}. A service has this file in force when its metric {IN_FORCE} is \
                 {expected}; it reads the file every half second."
            ),
        }
        Ok(answer)
    }
}

/// Asks a service until it has the content with this fingerprint in force, or has had the time to read it.
async fn ask(service: &str, expected: u64) -> Answer {
    let deadline = Instant::now() + READ_WITHIN;
    loop {
        match probe::gauge(service, IN_FORCE, READ_WITHIN).await {
            None => return Answer::Nothing,
            Some(0) => return Answer::NoFile,
            Some(in_force) if in_force == expected => return Answer::InForce,
            Some(_) if Instant::now() >= deadline => return Answer::NotInForce,
            Some(_) => sleep(ASK_EVERY).await,
        }
    }
}
