//! Until when a certificate is valid. It is our own: what cannot be read here is left to those who verify it.

use super::der::element;
use chrono::{DateTime, NaiveDateTime, Utc};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// X.509's `[0]`, which the version has.
const VERSION: u8 = 0xa0;
/// The tag of a date whose year has two digits; those before 50 are of this century.
const UTC_TIME: u8 = 0x17;

/// The last instant at which a certificate is valid.
/// Source: RFC 5280, 4.1.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let mut signed = element(&mut certificate.as_ref())?.content;
    let mut fields = element(&mut signed)?.content;
    let _serial_number = match element(&mut fields)? {
        version if version.tag == VERSION => element(&mut fields)?,
        serial_number => serial_number,
    };
    let (_algorithm, _issuer) = (element(&mut fields)?, element(&mut fields)?);
    let mut validity = element(&mut fields)?.content;
    let (_from, until) = (element(&mut validity)?, element(&mut validity)?);
    let text = str::from_utf8(until.content).ok()?;
    let text = match until.tag {
        UTC_TIME if text < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        _ => text.to_owned(),
    };
    Some(NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?.and_utc())
}
