//! Compaction, downsampling and retention of streams, in one pass: what one decides, the others must know.

use super::choose::{Kind, choose};
use super::item::{DOWNSAMPLE_VERTICAL, INDEX_SIZE};
use super::settings::{WIDE_5M, WIDE_RAW};
use super::{Action, Block, Compaction, Hold, Plan, RESOLUTIONS, Settings, Stream, Subject, Why};
use crate::marks::reason;
use crate::meta::BlockMeta;
use model::BlockId;
use std::collections::BTreeSet;

/// Sources of the sound blocks of a resolution.
#[derive(Default)]
struct Copies {
    sources: BTreeSet<BlockId>,
}

impl Copies {
    fn all_of(&self, block: &Block) -> bool {
        block.sources().iter().all(|s| self.sources.contains(s))
    }
}

/// What is decided about blocks so far.
struct State<'a> {
    now: i64,
    settings: &'a Settings,
    /// By place in [`RESOLUTIONS`].
    held: [Copies; 3],
    /// Blocks that an item of this plan is about.
    taken: BTreeSet<BlockId>,
}

impl State<'_> {
    /// Resolutions coarser than `resolution` that data up to `max_time` is to be kept in.
    fn wanted(&self, resolution: i64, meta: &BlockMeta) -> Vec<i64> {
        let coarser = RESOLUTIONS.into_iter().filter(|r| *r > resolution);
        coarser.filter(|r| !self.settings.is_over_for(meta, *r, self.now)).collect()
    }

    fn held(&self, resolution: i64) -> impl Iterator<Item = &Copies> {
        self.held.iter().zip(RESOLUTIONS).filter(move |(_, r)| *r == resolution).map(|(h, _)| h)
    }

    /// Whether a sound block of this resolution has every source.
    fn has(&self, resolution: i64, block: &Block) -> bool {
        self.held(resolution).any(|h| h.all_of(block))
    }
}

/// Decides about all streams.
pub(super) fn decide(streams: &[Stream<'_>], now: i64, settings: &Settings, plan: &mut Plan) {
    let mut taken: BTreeSet<BlockId> = plan.items.iter().flat_map(|i| i.action.blocks().iter().copied()).collect();
    taken.extend(streams.iter().flat_map(|s| &s.fresh));
    let mut state = State { now, settings, held: Default::default(), taken };
    for stream in streams {
        for (held, r) in state.held.iter_mut().zip(RESOLUTIONS) {
            if r == stream.resolution {
                // A copy that goes itself is none.
                let stays =
                    |b: &&&Block| b.is_sound() && !stream.fresh.contains(&b.meta.id) && !settings.is_over(&b.meta, now);
                held.sources.extend(stream.blocks.iter().filter(stays).flat_map(|b| b.sources()));
            }
        }
    }
    for stream in streams {
        retention(stream, &mut state, plan);
    }
    for stream in streams {
        compaction(stream, &mut state, plan);
    }
    for stream in streams.iter().filter(|_| settings.downsample) {
        downsampling(stream, &mut state, plan);
    }
}

/// Marks what is too old; what has no coarser copy is downsampled first.
fn retention(stream: &Stream<'_>, state: &mut State<'_>, plan: &mut Plan) {
    let keep = state.settings.retention.of(stream.resolution);
    let kept = |b: &&&Block| {
        let too_old = state.settings.retention.is_over_for(stream.resolution, b.meta.max_time, state.now);
        too_old && b.marks.deletion.is_none() && !state.settings.expires(&b.meta)
    };
    if stream.blocks.iter().any(|b| kept(&b)) {
        plan.hold(Subject::Stream(stream.name()), Hold::OtherLabels);
    }
    for block in &stream.blocks {
        let (id, meta) = (block.meta.id, &block.meta);
        if block.marks.deletion.is_some() || state.taken.contains(&id) || !state.settings.is_over(meta, state.now) {
            continue;
        }
        state.taken.insert(id);
        let wanted = state.wanted(stream.resolution, meta);
        let copied = RESOLUTIONS.into_iter().filter(|r| *r > stream.resolution).any(|r| state.has(r, block));
        // A person may say that there shall be no copy.
        let no_copy = block.marks.no_downsample.as_ref().is_some_and(|m| m.reason == reason::MANUAL);
        match wanted.first() {
            Some(finest)
                if state.settings.downsample && !copied && !no_copy && !model::protection::off("retention-waits") =>
            {
                if block.problems.is_empty() && block.marks.no_downsample.is_none() {
                    plan.item(Action::Downsample(id, vec![*finest]), Why::BeforeRetention { keep });
                } else {
                    plan.hold(Subject::Block(id), Hold::NoCoarserCopy);
                }
            }
            _ => plan.item(Action::MarkForDeletion(id), Why::Retention { keep }),
        }
    }
}

/// Plans the next compaction of a stream.
fn compaction(stream: &Stream<'_>, state: &mut State<'_>, plan: &mut Plan) {
    let settings = state.settings;
    let name = stream.name();
    // What will be gone is no reason to wait.
    let staying = || stream.blocks.iter().filter(|b| b.marks.deletion.is_none());
    if !settings.merge
        && let Some((a, b)) = first_overlap(staying())
    {
        plan.hold(Subject::Stream(name), Hold::Overlaps(a, b));
        return;
    }
    let mut out: BTreeSet<BlockId> = BTreeSet::new();
    for block in &stream.blocks {
        if !block.is_sound() || block.marks.no_compact.is_some() || state.taken.contains(&block.meta.id) {
            out.insert(block.meta.id);
        }
    }
    loop {
        let candidates: Vec<(&BlockMeta, bool)> =
            stream.blocks.iter().map(|b| (&*b.meta, out.contains(&b.meta.id))).collect();
        let Some(choice) = choose(&settings.ranges, &candidates) else { return };
        let chosen: Vec<&Block> = choice.blocks.iter().filter_map(|i| stream.blocks.get(*i).copied()).collect();
        match too_large(&chosen, settings.max_index_bytes) {
            Err(id) => {
                plan.hold(Subject::Block(id), Hold::IndexSizeUnknown);
                out.insert(id);
                continue;
            }
            Ok(Some(id)) => {
                let why = Why::IndexSize { limit: settings.max_index_bytes };
                plan.item(Action::MarkNoCompact(id, INDEX_SIZE), why);
                state.taken.insert(id);
                out.insert(id);
                continue;
            }
            Ok(None) => {}
        }
        let overlaps = choice.kind == Kind::Overlap;
        if overlaps && stream.resolution > 0 {
            for block in &chosen {
                let id = block.meta.id;
                plan.item(Action::MarkNoCompact(id, DOWNSAMPLE_VERTICAL), Why::DownsampledOverlap);
                state.taken.insert(id);
                out.insert(id);
            }
            continue;
        }
        if !overlaps && let Some((a, b)) = shared_source(&chosen) {
            plan.hold(Subject::Stream(name), Hold::SharedSource(a, b));
            return;
        }
        let (Some(min), Some(max)) =
            (chosen.iter().map(|b| b.meta.min_time).min(), chosen.iter().map(|b| b.meta.max_time).max())
        else {
            return;
        };
        // With merging, a result that overlaps another block is merged with it in the next round, unless that is marked.
        let blocks: Vec<BlockId> = chosen.iter().map(|b| b.meta.id).collect();
        let in_the_way = staying().find(|b| {
            let (id, m) = (b.meta.id, &b.meta);
            !blocks.contains(&id) && m.min_time < max && m.max_time > min && (!settings.merge || !b.is_sound())
        });
        if let Some(other) = in_the_way {
            plan.hold(Subject::Stream(name), Hold::InTheWay(other.meta.id));
            return;
        }
        state.taken.extend(&blocks);
        let compaction = Compaction { stream: name, blocks, range: (min, max), overlap: overlaps };
        plan.item(Action::Compact(compaction), Compaction::why(choice.kind));
        return;
    }
}

/// The first block that begins before an earlier one ends, behind that one.
fn first_overlap<'a>(blocks: impl Iterator<Item = &'a &'a Block>) -> Option<(BlockId, BlockId)> {
    let mut longest: Option<&Block> = None;
    for block in blocks {
        if let Some(before) = longest
            && block.meta.min_time < before.meta.max_time
        {
            return Some((before.meta.id, block.meta.id));
        }
        if longest.is_none_or(|l| l.meta.max_time < block.meta.max_time) {
            longest = Some(block);
        }
    }
    None
}

/// The block that must stay out so that the index of the result does not grow too large; an error: a block whose index has a size
/// that nobody knows. Thanos's rule: the sizes are added up in order, and at 85% of the limit the largest one so far is left out.
fn too_large(blocks: &[&Block], limit: u64) -> Result<Option<BlockId>, BlockId> {
    let (mut total, mut largest) = (0u64, None::<(u64, BlockId)>);
    for block in blocks {
        let id = block.meta.id;
        let size = block.index_size().ok_or(id)?;
        if largest.is_none_or(|(l, _)| l < size) {
            largest = Some((size, id));
        }
        total = total.saturating_add(size);
        if total as f64 >= (limit as f64 * 0.85).floor() {
            return Ok(largest.map(|(_, id)| id));
        }
    }
    Ok(None)
}

/// Two blocks that have a source in common.
fn shared_source(blocks: &[&Block]) -> Option<(BlockId, BlockId)> {
    let mut seen = std::collections::BTreeMap::new();
    for block in blocks {
        for source in block.sources() {
            if let Some(other) = seen.insert(*source, block.meta.id) {
                return Some((other, block.meta.id));
            }
        }
    }
    None
}

/// Downsamples what is wide enough and has a source that no coarser block has.
fn downsampling(stream: &Stream<'_>, state: &mut State<'_>, plan: &mut Plan) {
    let [_, five_minutes, hour] = RESOLUTIONS;
    for block in &stream.blocks {
        let (id, width) = (block.meta.id, block.width());
        if !block.is_sound() || block.marks.no_downsample.is_some() || state.taken.contains(&id) {
            continue;
        }
        let lacks = |r: i64| !state.has(r, block);
        let mut to = Vec::new();
        match stream.resolution {
            0 if width >= WIDE_RAW && lacks(five_minutes) => {
                to.push(five_minutes);
                // Thanos makes this one of the other, in its second pass.
                if width >= WIDE_5M && lacks(hour) {
                    to.push(hour);
                }
            }
            r if r == five_minutes && width >= WIDE_5M && lacks(hour) => to.push(hour),
            _ => {}
        }
        // What would be too old at once is not made.
        to.retain(|r| !state.settings.is_over_for(&block.meta, *r, state.now));
        if !to.is_empty() {
            state.taken.insert(id);
            plan.item(Action::Downsample(id, to), Why::Wide { width });
        }
    }
}
