//! The Clerk instance whose deliveries are applied.

use std::sync::OnceLock;

/// The served Clerk instance: the configured one, else the instance of the secret key once Clerk has reported it, else
/// any.
#[derive(Debug, Default)]
pub struct ServedInstance {
    served: OnceLock<String>,
    /// The instance of the first delivery that has one.
    first: OnceLock<String>,
}

impl ServedInstance {
    /// Serves this instance; `None`: any instance until [`Self::pin`] sets one.
    #[must_use]
    pub fn new(served: Option<String>) -> Self {
        let this = Self::default();
        if let Some(served) = served {
            this.pin(served);
        }
        this
    }

    /// The served instance; `None`: any.
    #[must_use]
    pub fn served(&self) -> Option<&str> {
        self.served.get().map(String::as_str)
    }

    /// Serves only this instance from now on, unless another one was pinned before.
    pub fn pin(&self, instance: String) {
        let _ = self.served.set(instance); // the first value stays
    }

    /// Why a delivery of this instance is rejected; `None`: it is accepted. A delivery without an instance is accepted.
    #[must_use]
    pub fn refuses(&self, instance: Option<&str>) -> Option<String> {
        let (served, instance) = (self.served()?, instance?);
        (served != instance).then(|| {
            format!("the delivery is from Clerk instance {instance}, but {served} is served here")
        })
    }

    /// The instance of the first delivery, if this one differs and no served instance is set.
    #[must_use]
    pub fn differs_from_first(&self, instance: &str) -> Option<&str> {
        let first = self.first.get_or_init(|| instance.to_owned());
        (self.served().is_none() && first != instance).then_some(first.as_str())
    }
}
