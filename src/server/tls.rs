//! TLS on a listener: its certificate, and whose client certificates it trusts. All is read again when the files change;
//! what is in force stays so while they are broken.

mod der;
mod expiry;
mod names;

pub use names::{InvalidName, Name};

use crate::server::reload::Reread;
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use std::{convert::Infallible, io, path::PathBuf, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

/// The files of a listener's certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose client certificates are trusted.
    pub clients: Option<PathBuf>,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How one listener does TLS.
pub struct Tls(Reread<Certified>);

/// A certificate in use.
struct Certified {
    config: Arc<ServerConfig>,
    until: Option<DateTime<Utc>>,
}

impl Tls {
    /// Reads the files; `name` is of the setting that names them.
    pub fn read(name: &'static str, files: Files, protocol: Protocol) -> anyhow::Result<Self> {
        let Files { certificate, key, clients } = files;
        let paths = [Some(certificate), Some(key), clients].into_iter().flatten().collect();
        let read = move |contents: &[Vec<u8>]| server(contents, protocol);
        Ok(Self(Reread::new(name, paths, Box::new(read))?))
    }

    /// Reads the files again when they change, for ever.
    pub async fn follow(&self) -> Infallible {
        self.0.follow().await
    }

    /// The last instant at which the certificate in use is valid, as far as that can be read.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.0.current().until
    }

    /// Shakes hands; tells the names in the certificate that the peer has presented, if it has.
    pub async fn accept(&self, peer: TcpStream) -> io::Result<(TlsStream<TcpStream>, Vec<Name>)> {
        let stream = TlsAcceptor::from(self.0.current().config.clone()).accept(peer).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = certificates.and_then(<[_]>::first).map(names::of).unwrap_or_default();
        Ok((stream, names))
    }
}

/// Contents: the certificate, its key and, where clients may have certificates, their authorities.
fn server(contents: &[Vec<u8>], protocol: Protocol) -> anyhow::Result<Certified> {
    let [certificate, key, clients @ ..] = contents else {
        bail!("a certificate and a key are needed")
    };
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match clients {
        [] => builder.with_no_client_auth(),
        [authorities, ..] => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities).context("the client authorities' file")? {
                roots.add(authority).context("the client authorities' file")?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            // Health is for everybody, and some callers may have keys: a call without either is refused later.
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let certificates = certificates(certificate).context("the certificate's file")?;
    let until = expiry::of(&certificates[0]);
    if let Some(until) = until.filter(|until| *until < Utc::now()) {
        bail!(
            "the certificate has expired at {until:?}: renew it (or is this machine's clock wrong?)"
        );
    }
    let key = PrivateKeyDer::from_pem_slice(key);
    let key =
        key.context("the key's file has no private key in PEM (-----BEGIN PRIVATE KEY-----)")?;
    let mut config =
        builder.with_single_cert(certificates, key).context("certificate and key do not fit")?;
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".into()],
        Protocol::Http2 => vec![b"h2".into()],
    };
    Ok(Certified { config: Arc::new(config), until })
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.context("is not PEM")?;
    if all.is_empty() {
        bail!("has no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Ok(all)
}
