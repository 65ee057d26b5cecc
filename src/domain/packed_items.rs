//! The items of an account, packed into one allocation: a replica caches a million accounts, and a check reads all
//! items of its accounts.
//!
//! Format of an item: two bytes of flags, which say which fields follow; the status; the texts, each after its length;
//! the dates, in microseconds; the seats.

use super::{Item, Seats, Status};
use chrono::{DateTime, Utc};
use std::{cmp::Reverse, fmt};

/// Items in one allocation, in the order in which they were packed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PackedItems(Box<[u8]>);

impl PackedItems {
    /// The longest text that an item may have, in bytes.
    pub const MAX_TEXT_LEN: usize = u8::MAX as usize;

    /// The fewest bytes that an item takes: flags, status, the length of its id, a date.
    pub const MIN_PACKED_LEN: usize = 12;

    /// The maximum number of items of an account, unless more of them may still grant.
    pub const MAX_ITEMS: usize = 1_000;

    /// Drops items above [`Self::MAX_ITEMS`] and keeps the order. Items that may still grant are always kept, so that
    /// no subject loses a paid plan. Of the others, which only explain denials, the newest are kept, and always the
    /// one that lasted longest: it distinguishes a failed upgrade from a failed renewal.
    pub fn bound<T>(items: &mut Vec<Item<T>>) {
        if items.len() <= Self::MAX_ITEMS {
            return;
        }
        let longest = (0..items.len()).max_by_key(|n| items[*n].lasted());
        let mut others: Vec<usize> =
            (0..items.len()).filter(|n| !items[*n].may_grant() && Some(*n) != longest).collect();
        let room = Self::MAX_ITEMS.saturating_sub(items.len() - others.len());
        others.sort_by_key(|n| Reverse(items[*n].updated_at));
        let mut dropped = vec![false; items.len()];
        others.iter().skip(room).for_each(|n| dropped[*n] = true);
        let mut dropped = dropped.into_iter();
        items.retain(|_| dropped.next() == Some(false));
    }

    /// The items; their texts are borrowed.
    #[must_use]
    pub fn iter(&self) -> Unpacked<'_> {
        Unpacked(&self.0)
    }

    /// Packs items.
    ///
    /// # Errors
    ///
    /// A text of an item is longer than [`Self::MAX_TEXT_LEN`].
    pub fn pack<T: AsRef<str>>(items: impl IntoIterator<Item = Item<T>>) -> Result<Self, TooLong> {
        let mut packed = Packer(Vec::new());
        items.into_iter().try_for_each(|item| packed.item(&item))?;
        Ok(Self(packed.0.into()))
    }

    /// The size of the packed items, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// The error for an item's text, named here, that is longer than [`PackedItems::MAX_TEXT_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is longer than {max} bytes", max = PackedItems::MAX_TEXT_LEN)]
pub struct TooLong(pub &'static str);

impl<'i> IntoIterator for &'i PackedItems {
    type Item = Item<&'i str>;
    type IntoIter = Unpacked<'i>;

    fn into_iter(self) -> Unpacked<'i> {
        self.iter()
    }
}

impl fmt::Debug for PackedItems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

struct Packer(Vec<u8>);

impl Packer {
    fn item<T: AsRef<str>>(&mut self, item: &Item<T>) -> Result<(), TooLong> {
        let quantity = item.seats.and_then(|seats| seats.0);
        let dates = [item.period_start, item.period_end, item.canceled_at, item.past_due_at];
        let [start, end, canceled, past_due] = dates.map(|date| date.is_some());
        let (plan, plan_id) = (item.plan.is_some(), item.plan_id.is_some());
        let (seats, quantified) = (item.seats.is_some(), quantity.is_some());
        let (trial, was_active) = (item.free_trial, item.was_active);
        self.0.push(pack_flags([plan, trial, start, end, canceled, past_due, seats, quantified]));
        self.0.push(pack_flags([plan_id, was_active, false, false, false, false, false, false]));
        self.status(&item.status)?;
        self.text("item.id", item.id.as_ref())?;
        item.plan.iter().try_for_each(|plan| self.text("item.plan", plan.as_ref()))?;
        item.plan_id.iter().try_for_each(|id| self.text("item.plan_id", id.as_ref()))?;
        dates.iter().flatten().for_each(|date| self.date(*date));
        self.date(item.updated_at);
        self.0.extend(quantity.iter().flat_map(|n| n.to_le_bytes()));
        Ok(())
    }

    fn status<T: AsRef<str>>(&mut self, status: &Status<T>) -> Result<(), TooLong> {
        self.0.push(match status {
            Status::Active => 0,
            Status::PastDue => 1,
            Status::Canceled => 2,
            Status::Ended => 3,
            Status::Expired => 4,
            Status::Abandoned => 5,
            Status::Upcoming => 6,
            Status::Incomplete => 7,
            Status::Withdrawn => 8,
            Status::Unknown(_) => 9,
        });
        match status {
            Status::Unknown(word) => self.text("item.status", word.as_ref()),
            _ => Ok(()),
        }
    }

    fn text(&mut self, name: &'static str, text: &str) -> Result<(), TooLong> {
        self.0.push(text.len().try_into().map_err(|_| TooLong(name))?);
        self.0.extend(text.as_bytes());
        Ok(())
    }

    fn date(&mut self, date: DateTime<Utc>) {
        self.0.extend(date.timestamp_micros().to_le_bytes());
    }
}

/// An iterator over packed items; it holds the bytes that are still to be read.
#[derive(Debug, Clone)]
pub struct Unpacked<'i>(&'i [u8]);

impl<'i> Iterator for Unpacked<'i> {
    type Item = Item<&'i str>;

    fn next(&mut self) -> Option<Item<&'i str>> {
        if self.0.is_empty() {
            return None;
        }
        let [plan, free_trial, start, end, canceled, past_due, seats, quantity] =
            unpack_flags(self.byte());
        let [plan_id, was_active, ..] = unpack_flags(self.byte());
        Some(Item {
            status: self.status(),
            id: self.text(),
            plan: plan.then(|| self.text()),
            plan_id: plan_id.then(|| self.text()),
            was_active,
            free_trial,
            period_start: start.then(|| self.date()),
            period_end: end.then(|| self.date()),
            canceled_at: canceled.then(|| self.date()),
            past_due_at: past_due.then(|| self.date()),
            updated_at: self.date(),
            seats: seats.then(|| Seats(quantity.then(|| u64::from_le_bytes(self.bytes())))),
        })
    }
}

impl<'i> Unpacked<'i> {
    fn status(&mut self) -> Status<&'i str> {
        match self.byte() {
            0 => Status::Active,
            1 => Status::PastDue,
            2 => Status::Canceled,
            3 => Status::Ended,
            4 => Status::Expired,
            5 => Status::Abandoned,
            6 => Status::Upcoming,
            7 => Status::Incomplete,
            8 => Status::Withdrawn,
            _ => Status::Unknown(self.text()),
        }
    }

    fn text(&mut self) -> &'i str {
        let length = self.byte().into();
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        str::from_utf8(text).expect("the bytes were packed from a str")
    }

    fn date(&mut self) -> DateTime<Utc> {
        let micros = i64::from_le_bytes(self.bytes());
        DateTime::from_timestamp_micros(micros).expect("the number was packed from a date")
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("items are packed whole");
        self.0 = rest;
        *bytes
    }
}

/// Packs eight flags into a byte.
fn pack_flags(flags: [bool; 8]) -> u8 {
    flags.into_iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(flag))
}

fn unpack_flags(byte: u8) -> [bool; 8] {
    std::array::from_fn(|bit| byte >> bit & 1 == 1)
}
