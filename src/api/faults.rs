//! The invalid fields of a gRPC request.

use std::fmt::Display;
use tonic::Status;
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

impl From<Faults> for Status {
    fn from(Faults(violations): Faults) -> Self {
        let texts: Vec<_> =
            violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        let details = ErrorDetails::with_bad_request(violations);
        Status::with_error_details(tonic::Code::InvalidArgument, texts.join("; "), details)
    }
}
