//! The invalid fields of a gRPC request.

use chrono::{DateTime, Datelike, Utc};
use std::{fmt::Display, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Collects the invalid fields of a request, with a description of each fault.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldViolation>);

impl Faults {
    pub(super) fn add(&mut self, field: &str, what: impl Display) {
        self.0.push(FieldViolation::new(field, what.to_string()));
    }

    /// Adds the faults of the message at index `i` of a repeated field.
    pub(super) fn add_all(&mut self, field: &str, i: usize, inner: Self) {
        for FieldViolation { field: of, description, .. } in inner.0 {
            self.add(&format!("{field}[{i}].{of}"), description);
        }
    }

    /// Returns the value if there are no faults, else the status that lists them.
    pub(super) fn none<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.into()),
        }
    }
}

/// Parses an instant, between the years 1 and 9999 as protobuf defines it.
pub(super) fn instant(
    field: &str,
    at: Option<prost_types::Timestamp>,
    faults: &mut Faults,
) -> Option<DateTime<Utc>> {
    let at = at?;
    let nanos = u32::try_from(at.nanos).ok();
    let parsed = nanos.and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos));
    let parsed = parsed.filter(|at| (1..=9999).contains(&at.year()));
    if parsed.is_none() {
        faults.add(field, "must be a timestamp between the years 1 and 9999");
    }
    parsed
}

/// Parses a duration, which must not be negative.
pub(super) fn duration(
    field: &str,
    given: Option<prost_types::Duration>,
    faults: &mut Faults,
) -> Option<Duration> {
    let given = given?;
    // The conversion of the library overflows for the smallest number of seconds.
    let is_negative = given.seconds < 0 || given.nanos < 0;
    let parsed = if is_negative { None } else { Duration::try_from(given).ok() };
    if parsed.is_none() {
        faults.add(field, "must be a duration that is not negative");
    }
    parsed
}

/// A status with this code that names a field.
pub(super) fn fault(code: Code, field: &str, what: impl Display) -> Status {
    let mut faults = Faults::default();
    faults.add(field, what);
    faults.status(code)
}

impl Faults {
    fn status(self, code: Code) -> Status {
        let Self(violations) = self;
        let texts: Vec<_> =
            violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        let details = ErrorDetails::with_bad_request(violations);
        Status::with_error_details(code, texts.join("; "), details)
    }
}

impl From<Faults> for Status {
    fn from(faults: Faults) -> Self {
        faults.status(Code::InvalidArgument)
    }
}
