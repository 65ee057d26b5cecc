//! Reads the names in a client certificate. The certificate is already verified: a trusted authority has signed the
//! names.

use super::der::element;
use serde::Deserialize;
use std::{fmt, str::FromStr};
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A name in a client certificate. Names of different kinds never match each other: an authority may verify the URIs
/// and DNS names that it signs, and leave the common name to the applicant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum CertificateName {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
    /// A common name of the subject, written `cn:NAME`.
    Common(String),
}

/// The text is not a valid name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a URI nor a DNS name in lower case: write a common name as `cn:{0}`, and a DNS name in lower case"
)]
pub struct InvalidCertificateName(String);

impl CertificateName {
    /// The text of the name, without its kind.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Dns(text) | Self::Common(text) => text,
        }
    }

    /// Whether the name is a common name.
    #[must_use]
    pub fn is_common(&self) -> bool {
        matches!(self, Self::Common(_))
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_common() { COMMON } else { "" })?;
        f.write_str(self.text())
    }
}

impl FromStr for CertificateName {
    type Err = InvalidCertificateName;

    fn from_str(text: &str) -> Result<Self, InvalidCertificateName> {
        let is_dns = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'*')
        };
        match text.strip_prefix(COMMON) {
            Some(common) if !common.is_empty() => Ok(Self::Common(common.into())),
            None if text.contains(':') => Ok(Self::Uri(text.into())),
            None if !text.is_empty() && text.bytes().all(is_dns) => Ok(Self::Dns(text.into())),
            Some(_) | None => Err(InvalidCertificateName(text.into())),
        }
    }
}

impl TryFrom<String> for CertificateName {
    type Error = InvalidCertificateName;

    fn try_from(text: String) -> Result<Self, InvalidCertificateName> {
        text.parse()
    }
}

/// The prefix of a common name in text form.
const COMMON: &str = "cn:";

/// The names in a certificate: the URIs, then the DNS names, then the common names of the subject.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Vec<CertificateName> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().map(|name| CertificateName::Uri(name.into()));
    let dns =
        certificate.valid_dns_names().map(|name| CertificateName::Dns(name.to_ascii_lowercase()));
    uris.chain(dns).chain(common_names(certificate.subject())).collect()
}

/// The object identifier of a common name in X.509, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// The DER tags of the supported string types: `UTF8String`, `PrintableString` and `IA5String`.
const STRING_TAGS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The common names in a subject: a sequence of sets of attributes; each attribute has an object identifier and a
/// value.
/// Source: RFC 5280, 4.1.2.4.
fn common_names(mut subject: &[u8]) -> Vec<CertificateName> {
    let mut names = Vec::new();
    while let Some(set) = element(&mut subject) {
        let mut attributes = set.content;
        while let Some(attribute) = element(&mut attributes) {
            names.extend(common_name(attribute.content));
        }
    }
    names
}

fn common_name(mut attribute: &[u8]) -> Option<CertificateName> {
    let (id, value) = (element(&mut attribute)?, element(&mut attribute)?);
    let is_name = id.content == COMMON_NAME && STRING_TAGS.contains(&value.tag);
    let text = String::from_utf8(value.content.into()).ok()?;
    is_name.then_some(CertificateName::Common(text))
}
