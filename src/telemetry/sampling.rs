//! Which of many like events are worth a line in the log.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// How many of some events are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many of each million, evenly spread.
    PerMillion(u32),
    /// The first so many of each second.
    PerSecond(u32),
}

/// The text says no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a share such as `1%`, or a rate such as `10/s`")]
pub struct InvalidShare;

impl FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        if let Some(rate) = text.strip_suffix("/s") {
            return rate.trim().parse().map(Self::PerSecond).map_err(|_| InvalidShare);
        }
        let percent: f64 = text
            .strip_suffix('%')
            .and_then(|percent| percent.trim().parse().ok())
            .ok_or(InvalidShare)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(InvalidShare);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        Ok(Self::PerMillion((percent * 10_000.0).round() as u32))
    }
}

/// Takes a share of the events that it is asked about.
#[derive(Debug)]
pub struct Sampler {
    share: Share,
    began: Instant,
    /// Of a share: the events so far. Of a rate: the second above the lower 32 bits, and in these its events.
    seen: AtomicU64,
}

impl Sampler {
    /// Takes this share.
    #[must_use]
    pub fn new(share: Share) -> Self {
        Self { share, began: Instant::now(), seen: AtomicU64::new(0) }
    }

    /// Whether this event is one of those to take.
    pub fn takes(&self) -> bool {
        match self.share {
            Share::PerMillion(share) => {
                let nth = self.seen.fetch_add(1, Ordering::Relaxed) % 1_000_000;
                let taken_before = |nth: u64| nth * u64::from(share) / 1_000_000;
                taken_before(nth + 1) > taken_before(nth)
            }
            Share::PerSecond(most) => {
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
