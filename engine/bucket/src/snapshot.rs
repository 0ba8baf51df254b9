//! A bucket as the planner of compaction sees it.

use crate::fetch::{Marks, View};
use tsdb::plan;

impl View {
    /// The same as plain data for [`plan::make`]; of a view that [`crate::fetch::Fetcher::sync`] gave, since others lack marks
    /// and sizes. What other processes are uploading right now is not known here: whoever acts on
    /// the plan fills in [`plan::Partial::claimed`].
    pub fn snapshot(&self) -> plan::Snapshot {
        let block = |b: &crate::fetch::Block| plan::Block {
            meta: b.meta.clone(),
            marks: marks(&b.marks),
            index_bytes: b.index_bytes,
            problems: b.problems.clone(),
        };
        let partial = |p: &crate::fetch::Partial| plan::Partial {
            newest_ms: (p.newest_ms > 0).then_some(p.newest_ms),
            deletion: p.marks.deletion.clone(),
            claimed: false,
        };
        plan::Snapshot {
            blocks: self.blocks.iter().map(|(id, b)| (*id, block(b))).collect(),
            partial: self.partial.iter().map(|(id, p)| (*id, partial(p))).collect(),
            complete: self.errors.is_empty(),
        }
    }
}

fn marks(marks: &Marks) -> plan::Marks {
    plan::Marks {
        deletion: marks.deletion.clone(),
        no_compact: marks.no_compact.clone(),
        no_downsample: marks.no_downsample.clone(),
    }
}
