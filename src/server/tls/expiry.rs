//! Reads the expiry of the listener's own certificate. A date that cannot be parsed is not an error: clients verify it.

use super::der::element;
use chrono::{DateTime, NaiveDateTime, Utc};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The tag `[0]` of the version in X.509.
const VERSION_TAG: u8 = 0xa0;
/// The tag of a date with a two-digit year: 00 to 49 mean 2000 to 2049.
const UTC_TIME: u8 = 0x17;

/// The last instant at which a certificate is valid; `None` if it cannot be parsed.
/// Source: RFC 5280, 4.1.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let mut signed = element(&mut certificate.as_ref())?.content;
    let mut fields = element(&mut signed)?.content;
    let _serial_number = match element(&mut fields)? {
        version if version.tag == VERSION_TAG => element(&mut fields)?,
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
