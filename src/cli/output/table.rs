//! Tables: aligned columns where they fit, else one block of lines for each row.

use super::{STRONG, paint, say, width};
use tabled::{
    builder::Builder,
    settings::{Padding, Style, Width, object::Columns},
};
use textwrap::core::display_width;

/// The space between two columns.
const GAP: usize = 2;

/// A table under construction. Columns without any value are left out.
pub(in crate::cli) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(in crate::cli) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(in crate::cli) fn push<const N: usize>(&mut self, row: [String; N]) {
        debug_assert_eq!(N, self.headers.len(), "one value for each column");
        self.rows.push(row.into());
    }

    /// Prints the table; nothing if it has no rows. The last column is wrapped if the table is too wide. If the table is
    /// too wide even then, each row is printed as a block.
    pub(in crate::cli) fn print(mut self) {
        if self.rows.is_empty() {
            return;
        }
        self.drop_empty_columns();
        let widths = self.widths();
        let (last, others) = widths.split_last().expect("a row has a value");
        let used = others.iter().map(|width| width + GAP).sum::<usize>();
        match width() {
            None => self.print_aligned(*last),
            Some(width) if used + self.longest_last_word() <= width => {
                self.print_aligned((*last).min(width - used));
            }
            Some(_) => self.print_blocks(),
        }
    }

    fn drop_empty_columns(&mut self) {
        let is_used: Vec<_> = (0..self.headers.len())
            .map(|at| self.rows.iter().any(|row| !row[at].is_empty()))
            .collect();
        let mut used = is_used.iter().cycle();
        self.headers.retain(|_| *used.next().expect("a cycle has no end"));
        for row in &mut self.rows {
            row.retain(|_| *used.next().expect("a cycle has no end"));
        }
    }

    fn widths(&self) -> Vec<usize> {
        let width = |at: usize| {
            let values = self.rows.iter().map(|row| display_width(&row[at]));
            values.chain([display_width(self.headers[at])]).max().unwrap_or_default()
        };
        (0..self.headers.len()).map(width).collect()
    }

    fn longest_last_word(&self) -> usize {
        let values = self.rows.iter().filter_map(|row| row.last().map(String::as_str));
        let words = values.chain(self.headers.last().copied()).flat_map(str::split_whitespace);
        words.map(display_width).max().unwrap_or_default()
    }

    fn print_aligned(self, last: usize) {
        let mut lines = Builder::new();
        lines.push_record(self.headers.iter().map(|header| header.to_uppercase()));
        self.rows.into_iter().for_each(|row| lines.push_record(row));
        let mut table = lines.build();
        table
            .with(Style::empty())
            .with(Padding::new(0, GAP, 0, 0))
            .modify(Columns::last(), Padding::zero())
            .modify(Columns::last(), Width::wrap(last).keep_words(true));
        let text = table.to_string();
        let (header, rows) = text.split_once('\n').unwrap_or((&text, ""));
        super::print_line(&paint(STRONG, header.trim_end()));
        rows.lines().for_each(super::print_line);
    }

    fn print_blocks(&self) {
        let indent = self.headers.iter().map(|header| header.len()).max().unwrap_or_default();
        for row in &self.rows {
            for (header, value) in self.headers.iter().zip(row).filter(|(_, v)| !v.is_empty()) {
                let header = paint(STRONG, &format!("{header:indent$}"));
                say(format_args!("{header}  {value}"));
            }
            say(format_args!(""));
        }
    }
}
