//! Walks over DER, which certificates are written in.

/// One element of DER.
pub(super) struct Element<'d> {
    pub(super) tag: u8,
    pub(super) content: &'d [u8],
}

/// Takes the first element off.
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
