//! Samples events, so that a frequent event does not flood the log.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// The share or rate of events that are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleRate {
    /// A number of events per million, evenly spread.
    PerMillion(u32),
    /// A maximum number of events per second: the first ones of each second.
    PerSecond(u32),
}

/// The text is not a sample rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a share such as `1%`, or a rate such as `10/s`")]
pub struct InvalidSampleRate;

impl FromStr for SampleRate {
    type Err = InvalidSampleRate;

    fn from_str(text: &str) -> Result<Self, InvalidSampleRate> {
        if let Some(rate) = text.strip_suffix("/s") {
            return rate.trim().parse().map(Self::PerSecond).map_err(|_| InvalidSampleRate);
        }
        let percent: f64 = text
            .strip_suffix('%')
            .and_then(|percent| percent.trim().parse().ok())
            .ok_or(InvalidSampleRate)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(InvalidSampleRate);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        Ok(Self::PerMillion((percent * 10_000.0).round() as u32))
    }
}

/// Selects a share of the events.
#[derive(Debug)]
pub struct Sampler {
    share: SampleRate,
    began: Instant,
    /// For a share: number of events so far. For a rate: the second in the upper 32 bits, its number of events in the
    /// lower 32 bits.
    seen: AtomicU64,
}

impl Sampler {
    /// A sampler with this rate.
    #[must_use]
    pub fn new(share: SampleRate) -> Self {
        Self { share, began: Instant::now(), seen: AtomicU64::new(0) }
    }

    /// Counts an event, and returns whether it is sampled.
    pub fn takes(&self) -> bool {
        match self.share {
            SampleRate::PerMillion(share) => {
                let nth = self.seen.fetch_add(1, Ordering::Relaxed) % 1_000_000;
                let taken_before = |nth: u64| nth * u64::from(share) / 1_000_000;
                taken_before(nth + 1) > taken_before(nth)
            }
            SampleRate::PerSecond(most) => {
                let second = self.began.elapsed().as_secs() << 32;
                let count = |seen: u64| if seen < second { second + 1 } else { seen + 1 };
                let order = Ordering::Relaxed;
                let before = self.seen.fetch_update(order, order, |seen| Some(count(seen)));
                let before = before.unwrap_or_else(|seen| seen);
                count(before) - second <= u64::from(most)
            }
        }
    }
}

#[cfg(test)]
mod tests;
