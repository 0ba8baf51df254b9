//! Reading histogram chunks as rows of a table, without an object per sample.

use super::count::Count;
use super::hint_of;
use super::layout::Layout;
use super::reduce::FINEST;
use crate::chunk::bits::BitReader;
use crate::chunk::error::{ChunkError, Fault, Section, no_head};
use crate::chunk::varbit::read_int;
use crate::chunk::xor::{Window, read_xor};
use model::histogram::ResetHint;
use model::histogram::rows::{self, Table};
use model::sample::STALE_NAN_BITS;

/// Most bytes that the rows of a chunk of `input` bytes may take. A bucket that does not change is a bit in the chunk and eight
/// bytes in a row; with what a table allocates while it grows, this stays below the 1 MiB + 16 × input that every decoder keeps
/// to.
const fn most(input: usize) -> usize {
    (300 << 10) + input.saturating_mul(5)
}

/// See [`crate::chunk::histograms`].
pub(in crate::chunk) fn read<V: Count>(
    data: &[u8],
    table: &mut Table,
    mut wants: impl FnMut(i64) -> bool,
) -> Result<bool, ChunkError> {
    let [encoding, _] = V::ENCODINGS;
    let Some([a, b, header]) = data.first_chunk::<3>().copied() else { return Err(no_head(encoding, data)) };
    let total = u16::from_be_bytes([a, b]);
    if hint_of(header) == ResetHint::Gauge {
        return Ok(false);
    }
    if total == 0 {
        return Ok(true);
    }
    let mut r = BitReader::new(data, 3);
    let outcome = Layout::read(&mut r, total);
    let (layout, np, nn) = outcome.map_err(|f| f.at(encoding, Section::Layout, r.place()))?;
    if layout.schema > FINEST {
        return Ok(false);
    }
    let row = rows::ROW_HEAD.saturating_add(np).saturating_add(nn).saturating_mul(size_of::<f64>());
    if row.saturating_mul(usize::from(total)) > most(data.len()) && !model::protection::off("chunk-rows") {
        return Ok(false);
    }
    let Layout { schema, zero_threshold, positive, negative, custom } = layout;
    let width = table.begin(rows::Layout {
        schema,
        zero_threshold,
        positive_spans: positive,
        negative_spans: negative,
        custom_values: custom,
    });
    let (mut t, mut delta) = (read_int(&mut r), 0i64);
    let mut totals = [V::read_total(&mut r), V::read_total(&mut r)];
    let mut sum = (r.take(64), Window::WHOLE);
    let mut buckets: Vec<V::Column> = Vec::with_capacity(np + nn);
    buckets.extend((0..np + nn).map(|_| V::read_bucket(&mut r)));
    for index in 0..total {
        if index > 0 {
            delta = delta.wrapping_add(read_int(&mut r));
            t = t.wrapping_add(delta);
            let failed = |f: Fault, r: &BitReader<&[u8]>| f.at(encoding, Section::Sample { index, total }, r.place());
            for total in &mut totals {
                V::read_next(&mut r, total).map_err(|f| failed(f, &r))?;
            }
            read_xor(&mut r, &mut sum.0, &mut sum.1).map_err(|f| failed(f, &r))?;
            if sum.0 != STALE_NAN_BITS {
                for bucket in &mut buckets {
                    V::read_next(&mut r, bucket).map_err(|f| failed(f, &r))?;
                }
            }
        }
        if r.overrun() {
            return Err(Fault::Truncated.at(encoding, Section::Sample { index, total }, r.place()));
        }
        if sum.0 == STALE_NAN_BITS || !wants(t) {
            continue;
        }
        let row = table.open();
        row.reserve(width);
        row.extend(totals.iter().map(|c| V::held(c).total_to_float()));
        row.push(f64::from_bits(sum.0));
        for side in [buckets.get(..np), buckets.get(np..)] {
            let mut left = V::default();
            row.extend(side.into_iter().flatten().map(|c| {
                left = V::absolute(V::held(c), left);
                left.bucket_to_float()
            }));
        }
        // The first sample's predecessor is in another chunk, which may not be the one that the writer saw.
        table.keep(t, if index == 0 { ResetHint::Unknown } else { ResetHint::NotReset });
    }
    Ok(true)
}
