//! The metrics page and its documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

/// Metric names, with their labels.
pub type Names = BTreeMap<String, BTreeSet<String>>;

/// The metrics in the table of `docs/metrics.md`.
pub fn documented() -> Names {
    let rows = include_str!("../../../docs/metrics.md").lines();
    let metrics = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    let split = |metric: &str| {
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    };
    let names: Names = metrics.map(split).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// The value of a sample on a metrics page, named with its labels.
pub fn sample<N: FromStr>(page: &str, name: &str) -> Option<N> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
