//! The Clerk instance whose deliveries are taken.

use std::sync::OnceLock;

/// Which instance is served: the one that a setting names, else that of the secret key once Clerk has said it, else
/// any.
#[derive(Debug, Default)]
pub struct ServedInstance {
    served: OnceLock<String>,
    /// The instance of the first delivery that named one.
    first: OnceLock<String>,
}

impl ServedInstance {
    /// Serves this instance, or any as long as nothing else is said.
    #[must_use]
    pub fn new(served: Option<String>) -> Self {
        let this = Self::default();
        if let Some(served) = served {
            this.pin(served);
        }
        this
    }

    /// The instance that is served, if only one is.
    #[must_use]
    pub fn served(&self) -> Option<&str> {
        self.served.get().map(String::as_str)
    }

    /// Serves only this instance from now on, unless another one was pinned before.
    pub fn pin(&self, instance: String) {
        let _ = self.served.set(instance); // what was said first counts
    }

    /// Why a delivery of this instance is not taken, if it is not. One that names no instance is.
    #[must_use]
    pub fn refuses(&self, instance: Option<&str>) -> Option<String> {
        let (served, instance) = (self.served()?, instance?);
        (served != instance).then(|| {
            format!("it is of the Clerk instance {instance}, and the one served here is {served}")
        })
    }

    /// The first instance that was seen, if this one differs from it and nothing says which is served.
    #[must_use]
    pub fn differs_from_first(&self, instance: &str) -> Option<&str> {
        let first = self.first.get_or_init(|| instance.to_owned());
        (self.served().is_none() && first != instance).then_some(first.as_str())
    }
}
