//! The names in a client's certificate. It was verified already: what is read here was signed by an authority that is
//! trusted.

use super::der::element;
use serde::Deserialize;
use std::{fmt, str::FromStr};
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A name in a client's certificate. The kinds never stand for each other: an authority may check the URIs and DNS
/// names that it signs, and leave the common name to whoever asks for the certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Name {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
    /// A common name of the subject, written `cn:NAME`.
    Common(String),
}

/// The text names nothing in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a URI nor a DNS name in lower case: write a common name as `cn:{0}`, and a DNS name in lower case"
)]
pub struct InvalidName(String);

impl Name {
    /// The name without its kind.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Dns(text) | Self::Common(text) => text,
        }
    }

    /// Whether it is a common name.
    #[must_use]
    pub fn is_common(&self) -> bool {
        matches!(self, Self::Common(_))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_common() { COMMON } else { "" })?;
        f.write_str(self.text())
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_dns = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'*')
        };
        match text.strip_prefix(COMMON) {
            Some(common) if !common.is_empty() => Ok(Self::Common(common.into())),
            None if text.contains(':') => Ok(Self::Uri(text.into())),
            None if !text.is_empty() && text.bytes().all(is_dns) => Ok(Self::Dns(text.into())),
            Some(_) | None => Err(InvalidName(text.into())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

/// What a common name begins with, as text.
const COMMON: &str = "cn:";

/// The names in a certificate: its URIs, then its DNS names, then the common names of its subject.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Vec<Name> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().map(|name| Name::Uri(name.into()));
    let dns = certificate.valid_dns_names().map(|name| Name::Dns(name.to_ascii_lowercase()));
    uris.chain(dns).chain(common_names(certificate.subject())).collect()
}

/// X.509's id of a common name, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// The tags of the kinds of text that common names are written in: UTF-8, printable and IA5.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The common names in a subject: a sequence of sets of attributes, each a sequence of an id and a value.
/// Source: RFC 5280, 4.1.2.4.
fn common_names(mut subject: &[u8]) -> Vec<Name> {
    let mut names = Vec::new();
    while let Some(set) = element(&mut subject) {
        let mut attributes = set.content;
        while let Some(attribute) = element(&mut attributes) {
            names.extend(common_name(attribute.content));
        }
    }
    names
}

fn common_name(mut attribute: &[u8]) -> Option<Name> {
    let (id, value) = (element(&mut attribute)?, element(&mut attribute)?);
    let is_name = id.content == COMMON_NAME && TEXTS.contains(&value.tag);
    let text = String::from_utf8(value.content.into()).ok()?;
    is_name.then_some(Name::Common(text))
}
