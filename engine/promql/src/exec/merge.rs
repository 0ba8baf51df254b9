//! Collects output series by labels. Series that became equal are one, as long as they never have a value at the
//! same step.

use super::QueryError;
use super::column::{Column, Point, SeriesColumn};
use hashbrown::HashMap;
use model::{FloatHistogram, Labels, protection};
use std::sync::Arc;

/// Prometheus's text for two series that became equal.
pub(crate) fn same_labels() -> QueryError {
    QueryError::execution("vector cannot contain metrics with the same labelset")
}

/// Output series in the order of their first appearance.
#[derive(Default)]
pub(crate) struct Merged {
    index: HashMap<Labels, usize>,
    series: Vec<SeriesColumn>,
}

impl Merged {
    /// Adds a whole series.
    pub(crate) fn add(&mut self, series: SeriesColumn) -> Result<(), QueryError> {
        let next = self.series.len();
        let at = *self.index.entry(series.labels.clone()).or_insert(next);
        let Some(base) = self.series.get_mut(at) else {
            self.series.push(series);
            return Ok(());
        };
        let occupied = series.column.occupied();
        if base.column.occupied().intersects(&occupied) && !protection::off("equal-labels") {
            return Err(same_labels());
        }
        // Step by step the first value would decide.
        if occupied.iter().next() < base.column.occupied().iter().next() {
            base.drop_name = series.drop_name;
        }
        for i in occupied.iter() {
            base.column.copy_point(i, &series.column);
        }
        Ok(())
    }

    /// The index of the series with these labels; made empty if it is new.
    pub(crate) fn slot(&mut self, labels: &Labels, drop_name: bool, len: usize) -> usize {
        if let Some(at) = self.index.get(labels) {
            return *at;
        }
        let at = self.series.len();
        self.index.insert(labels.clone(), at);
        self.series.push(SeriesColumn { labels: labels.clone(), drop_name, column: Column::empty(len) });
        at
    }

    /// Sets the value at one step; there must not be one yet.
    pub(crate) fn put(&mut self, slot: usize, step: usize, point: Point<'_>) -> Result<(), QueryError> {
        match point {
            Point::Float(v) => self.put_float(slot, step, v),
            Point::Histogram(h) => self.put_histogram(slot, step, h.clone()),
        }
    }

    pub(crate) fn put_float(&mut self, slot: usize, step: usize, v: f64) -> Result<(), QueryError> {
        self.vacant(slot, step)?.set(step, v);
        Ok(())
    }

    pub(crate) fn put_histogram(&mut self, slot: usize, step: usize, h: Arc<FloatHistogram>) -> Result<(), QueryError> {
        self.vacant(slot, step)?.set_histogram(step, h);
        Ok(())
    }

    fn vacant(&mut self, slot: usize, step: usize) -> Result<&mut Column, QueryError> {
        let series = self.series.get_mut(slot).ok_or_else(same_labels)?;
        if series.column.point(step).is_some() && !protection::off("equal-labels") {
            return Err(same_labels());
        }
        Ok(&mut series.column)
    }

    /// The series that have any value.
    pub(crate) fn finish(self) -> impl Iterator<Item = SeriesColumn> {
        self.series.into_iter().filter(|s| !s.column.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_series_join_unless_they_overlap() {
        let series = |step: usize| {
            let mut column = Column::empty(3);
            column.set(step, 1.0);
            SeriesColumn { labels: Labels::from_pairs([("a", "b")]), drop_name: false, column }
        };
        let mut m = Merged::default();
        m.add(series(0)).unwrap();
        m.add(series(2)).unwrap();
        assert_eq!(m.add(series(2)), Err(same_labels()));
        let all: Vec<_> = m.finish().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].column.present.iter().collect::<Vec<_>>(), [0, 2]);
    }

    /// `b or rate(a)` with delayed name removal: what stands at the first step says whether the name goes.
    #[test]
    fn the_first_step_says_whether_the_name_goes() {
        for (first, second) in [(0, 2), (2, 0)] {
            let series = |step: usize, drop_name: bool| {
                let mut column = Column::empty(3);
                column.set(step, 1.0);
                SeriesColumn { labels: Labels::from_pairs([("__name__", "b")]), drop_name, column }
            };
            let mut m = Merged::default();
            m.add(series(first, first == 0)).unwrap();
            m.add(series(second, second == 0)).unwrap();
            assert!(m.finish().all(|s| s.drop_name));
        }
    }
}
