//! Generates certificates for tests.

use entitlements::config::CertificateFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};
use std::{fs, net::SocketAddr, path::PathBuf};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The year in which issued certificates expire.
const ENDS: i32 = 2040;

/// A certificate authority, and the folder of the certificates that it has issued.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    folder: TempDir,
}

/// The kind of name in a certificate.
#[derive(Debug)]
pub enum Name<'n> {
    Uri(&'n str),
    Dns(&'n str),
    /// A common name, only in the subject.
    Common(&'n str),
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the tests' own authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate that was valid in January of 2021.
    pub fn expired(&self) -> String {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2021, 1, 1);
        params.not_after = date_time_ymd(2021, 2, 1);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem()
    }

    /// Issues a certificate with these names, and returns it and its key in PEM.
    pub fn issue(&self, names: &[Name]) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "a".repeat(200));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(ENDS, 1, 1);
        for name in names {
            match name {
                Name::Uri(uri) => {
                    params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
                }
                Name::Dns(dns) => {
                    params.subject_alt_names.push(SanType::DnsName((*dns).try_into().unwrap()));
                }
                Name::Common(name) => params.distinguished_name.push(DnType::CommonName, *name),
            }
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Issues the certificate of a service, and writes it to the files that the service reads.
    pub fn serve_as(&self, name: &str) {
        let (certificate, key) = self.issue(&[Name::Dns("localhost"), Name::Dns(name)]);
        fs::write(self.path("cert.pem"), certificate).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
    }

    /// The files of a listener, with a certificate for localhost.
    pub fn listener(&self) -> CertificateFiles {
        self.serve_as("first.test");
        CertificateFiles { certificate: self.path("cert.pem"), key: self.path("key.pem") }
    }

    /// The file of this authority, which may sign client certificates.
    pub fn client_ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A TLS client that trusts this authority and presents this certificate, if any.
    pub fn client(&self, identity: Option<(String, String)>) -> ClientTlsConfig {
        let trusting = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.pem))
            .domain_name("localhost");
        match identity {
            Some((certificate, key)) => trusting.identity(Identity::from_pem(certificate, key)),
            None => trusting,
        }
    }
}

/// Connects to a gRPC listener by TLS.
pub async fn connect_tls(
    to: SocketAddr,
    tls: ClientTlsConfig,
) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://{to}")).unwrap().tls_config(tls)?.connect().await
}
