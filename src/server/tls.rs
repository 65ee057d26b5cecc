//! TLS on a listener: its certificate, and the authorities of client certificates. The files are reloaded when they
//! change; while they are invalid, the previous content stays active.

mod der;
mod expiry;
mod names;

pub use names::{CertificateName, InvalidCertificateName};

use crate::server::reload::{HotReload, NamedFile};
use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use std::{convert::Infallible, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

/// The files of a listener's certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: NamedFile,
    /// The private key of the certificate.
    pub key: NamedFile,
    /// The authorities whose client certificates are trusted.
    pub clients: Option<NamedFile>,
}

/// The protocol inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, or HTTP/1.1.
    Both,
}

/// The TLS configuration of one listener.
pub struct Tls(HotReload<Certified>);

/// A loaded certificate.
struct Certified {
    config: Arc<ServerConfig>,
    expires_at: Option<DateTime<Utc>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or its content cannot be used; the error names the setting of the file.
    pub fn read(files: TlsFiles, protocol: Alpn) -> anyhow::Result<Self> {
        let TlsFiles { certificate, key, clients } = files;
        let name = certificate.0;
        let files: Vec<_> = [Some(certificate), Some(key), clients].into_iter().flatten().collect();
        let settings: Vec<_> = files.iter().map(|(setting, _)| *setting).collect();
        let read = move |contents: &[Vec<u8>]| server(&settings, contents, protocol);
        Ok(Self(HotReload::new(name, files, Box::new(read))?))
    }

    /// Reloads the files when they change; never returns.
    pub async fn watch(&self) -> Infallible {
        self.0.watch().await
    }

    /// The expiry of the active certificate; `None` if it cannot be parsed.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.0.current().expires_at
    }

    /// Performs the handshake. Returns the stream, and the names in the client certificate, if there is one.
    ///
    /// # Errors
    ///
    /// If the handshake fails.
    pub async fn accept(
        &self,
        peer: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Vec<CertificateName>)> {
        let stream = TlsAcceptor::from(self.0.current().config.clone()).accept(peer).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = certificates.and_then(<[_]>::first).map(names::of).unwrap_or_default();
        Ok((stream, names))
    }
}

/// Builds the configuration from the contents of the files: certificate, key and optionally client authorities. An error
/// names the setting of the file.
fn server(
    settings: &[&'static str],
    contents: &[Vec<u8>],
    protocol: Alpn,
) -> anyhow::Result<Certified> {
    let ([certificate, key, clients @ ..], [certificate_setting, key_setting, ..]) =
        (contents, settings)
    else {
        bail!("TLS needs a certificate and a key: set both")
    };
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match clients {
        [] => builder.with_no_client_auth(),
        [authorities, ..] => {
            let roots = Arc::new(roots(authorities).context(settings[2])?);
            // A client certificate is optional: health needs none, and some callers have API keys. A call with neither
            // is rejected by the auth layer.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let certificates = certificates(certificate).context(*certificate_setting)?;
    let expires_at = unexpired(&certificates[0]).context(*certificate_setting)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .context("has no private key in PEM (-----BEGIN PRIVATE KEY-----)")
        .context(*key_setting)?;
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => anyhow!(
            "{certificate_setting}: the certificate and the private key of {key_setting} do not match"
        ),
        error => anyhow!("{certificate_setting}: the certificate or its key cannot be used: {error}"),
    })?;
    config.alpn_protocols = match protocol {
        Alpn::Http1 => vec![b"http/1.1".into()],
        Alpn::Both => vec![b"h2".into(), b"http/1.1".into()],
    };
    Ok(Certified { config: Arc::new(config), expires_at })
}

/// The expiry of a certificate, if it can be parsed; fails if it is over.
fn unexpired(certificate: &CertificateDer<'_>) -> anyhow::Result<Option<DateTime<Utc>>> {
    let expires_at = expiry::of(certificate);
    if let Some(at) = expires_at.filter(|at| *at < Utc::now()) {
        bail!("the certificate expired at {at:?}: renew it, or correct this machine's clock");
    }
    Ok(expires_at)
}

/// The authorities in a PEM file.
fn roots(authorities: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities)? {
        roots.add(authority)?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.context("not valid PEM")?;
    if all.is_empty() {
        bail!("has no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Ok(all)
}
