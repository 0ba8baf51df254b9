//! `panoptes tools bucket inspect`: all blocks as a table, with Thanos's columns.

use super::format::{duration, thousands, time};
use super::table::{Shape, Table};
use super::{Objstore, Screen};
use args::Millis;
use model::world::World;
use std::collections::BTreeMap;
use tsdb::BlockMeta;

const COLUMNS: [&str; 13] = [
    "ULID",
    "FROM",
    "UNTIL",
    "RANGE",
    "UNTIL-DOWN",
    "#SERIES",
    "#SAMPLES",
    "#CHUNKS",
    "COMP-LEVEL",
    "COMP-FAILED",
    "LABELS",
    "RESOLUTION",
    "SOURCE",
];
/// Resolutions in ms, and the age of data from which the next one is made.
const RAW: i64 = 0;
const FIVE_MINUTES: i64 = 300_000;
const TWO_DAYS_NEARLY: i64 = 40 * 3_600_000;
const TEN_DAYS: i64 = 240 * 3_600_000;

/// Flags of `inspect`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Only blocks with this external label, as in -l 'cluster="prod"'; all that are given must match
    #[arg(short = 'l', long, value_name = "NAME=\"VALUE\"")]
    selector: Vec<String>,
    /// Columns to sort by, one after the other
    #[arg(long, default_values = ["FROM", "UNTIL"], value_parser = clap::builder::PossibleValuesParser::new(COLUMNS))]
    sort_by: Vec<String>,
    /// How the table is written
    #[arg(long, default_value = "table")]
    output: Shape,
    /// Time in which the blocks must have been read
    #[arg(long, default_value = "5m")]
    timeout: Millis,
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let selector = args.selector.iter().map(|s| label(s)).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let view = super::view(objstore, world, args.timeout).await?;
    let metas = view.blocks.values().map(|block| &*block.meta);
    let text = write(metas, &selector, &args.sort_by, args.output);
    screen.out.write_all(text.as_bytes())?;
    super::complete(&view, screen)
}

fn write<'a>(
    metas: impl Iterator<Item = &'a BlockMeta>,
    selector: &BTreeMap<String, String>,
    sort_by: &[String],
    shape: Shape,
) -> String {
    let lines = metas.filter(|meta| matches(meta, selector)).map(line).collect();
    let mut table = Table { header: &COLUMNS, lines };
    let columns: Vec<usize> =
        sort_by.iter().filter_map(|name| COLUMNS.iter().position(|column| column == name)).collect();
    table.sort(&columns);
    table.write(shape)
}

/// `name="value"`, as Thanos's flags have it.
fn label(text: &str) -> anyhow::Result<(String, String)> {
    let wrong = || anyhow::anyhow!("--selector={text}: write it as name=\"value\"");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value: String = serde_json::from_str(value).map_err(|_| wrong())?;
    anyhow::ensure!(model::labels::is_legacy_name(name), "--selector={text}: {name:?} is no label name");
    Ok((name.to_owned(), value))
}

fn matches(meta: &BlockMeta, selector: &BTreeMap<String, String>) -> bool {
    let labels = meta.thanos.as_ref().map(|t| &t.labels);
    selector.iter().all(|(name, value)| labels.and_then(|l| l.get(name)) == Some(value))
}

fn line(meta: &BlockMeta) -> Vec<String> {
    let range = meta.max_time.saturating_sub(meta.min_time);
    let until_down = match meta.resolution() {
        RAW => duration(TWO_DAYS_NEARLY - range),
        FIVE_MINUTES => duration(TEN_DAYS - range),
        _ => "-".to_owned(),
    };
    let thanos = meta.thanos.as_ref();
    let labels: Vec<String> =
        thanos.iter().flat_map(|t| &t.labels).map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        meta.id.to_string(),
        time(meta.min_time),
        time(meta.max_time),
        duration(range),
        until_down,
        thousands(meta.stats.num_series),
        thousands(meta.stats.num_samples),
        thousands(meta.stats.num_chunks),
        meta.compaction.level.to_string(),
        meta.compaction.failed.to_string(),
        labels.join(","),
        duration(meta.resolution()),
        thanos.map(|t| t.source.clone()).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_by_all_labels() {
        let text = r#"{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":0,"maxTime":7200000,"version":1,
            "compaction":{"level":1},"thanos":{"labels":{"cluster":"prod","x":"y"}}}"#;
        let meta = BlockMeta::read("meta.json", text.as_bytes()).unwrap();
        let selected = |all: &[&str]| matches(&meta, &all.iter().map(|s| label(s).unwrap()).collect());
        assert!(selected(&[]) && selected(&["cluster=\"prod\""]) && selected(&["x=\"y\"", "cluster=\"prod\""]));
        assert!(!selected(&["x=\"y\"", "cluster=\"ops\""]) && !selected(&["z=\"\""]));
        assert!(label("cluster=prod").is_err() && label("1=\"x\"").is_err() && label("x").is_err());
        let text = write(std::iter::once(&meta), &BTreeMap::new(), &[], Shape::Csv);
        assert!(
            text.contains(
                "1970-01-01T00:00:00Z,1970-01-01T02:00:00Z,2h0m0s,38h0m0s,0,0,0,1,false,\"cluster=prod,x=y\",0s,"
            ),
            "{text}"
        );
    }
}
