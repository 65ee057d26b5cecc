//! The names in a client's certificate. It was verified already: what is read here was signed by an authority that is
//! trusted.

use super::der::element;
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names that a certificate is for: its URIs (such as SPIFFE's), then its DNS names; if it has none of them, the
/// common name of its subject.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_uri_names().chain(certificate.valid_dns_names());
    let names: Vec<_> = names.map(str::to_owned).collect();
    if names.is_empty() { common_name(certificate.subject()).into_iter().collect() } else { names }
}

/// X.509's id of a common name, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// The tags of the kinds of text that common names are written in: UTF-8, printable and IA5.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The common name in a subject: a sequence of sets of attributes, each a sequence of an id and a value.
/// Source: RFC 5280, 4.1.2.4.
fn common_name(mut subject: &[u8]) -> Option<String> {
    while let Some(set) = element(&mut subject) {
        let mut attributes = set.content;
        while let Some(attribute) = element(&mut attributes) {
            let mut parts = attribute.content;
            let (id, value) = (element(&mut parts)?, element(&mut parts)?);
            if id.content == COMMON_NAME && TEXTS.contains(&value.tag) {
                return String::from_utf8(value.content.into()).ok();
            }
        }
    }
    None
}
