//! A reader of DER, the encoding of certificates.

/// A DER element.
pub(super) struct Element<'d> {
    pub(super) tag: u8,
    pub(super) content: &'d [u8],
}

/// Removes the first element from `der` and returns it; `None` if there is no complete element.
pub(super) fn element<'d>(der: &mut &'d [u8]) -> Option<Element<'d>> {
    let [tag, length, rest @ ..] = *der else { return None };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some(Element { tag: *tag, content })
}
