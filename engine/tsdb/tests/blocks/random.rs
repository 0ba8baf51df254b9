//! Random blocks: what goes in comes out, and is found by its labels.

use crate::support::{ChunkData, Content, files, id, read, write};
use model::{Labels, MatchOp, Matcher};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tsdb::disk::{Disk as _, RealDisk};
use tsdb::header;
use tsdb::index::{self, Plan, read_list};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("__name__".to_owned()), "[a-c]", "[a-zé日\u{10FFFF} .-]{1,5}"]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-b]{1,2}", "[0-9]{1,3}", "\\PC{1,8}", Just("x".repeat(300))]
}

fn chunk() -> impl Strategy<Value = ChunkData> {
    (any::<u8>(), prop::collection::vec(any::<u8>(), 2..200)).prop_map(|(encoding, data)| ChunkData {
        encoding,
        data,
        min_time: 0,
        max_time: 0,
    })
}

pub(crate) fn content(series: usize) -> impl Strategy<Value = Content> {
    let labels = prop::collection::btree_map(name(), value(), 1..6);
    let chunks = prop::collection::vec((chunk(), 1i64..1000, 0i64..1_000_000), 1..5);
    let start = prop_oneof![Just(0i64), -1_000_000i64..1_000_000, Just(i64::MAX / 2), Just(i64::MIN / 2)];
    prop::collection::vec((labels, chunks, start), 0..series).prop_map(|all| {
        let mut sorted: BTreeMap<Labels, Vec<ChunkData>> = BTreeMap::new();
        for (labels, chunks, start) in all {
            let mut at = start;
            let chunks = chunks.into_iter().map(|(c, gap, length)| {
                let (min_time, max_time) = (at + gap, at + gap + length);
                at = max_time;
                ChunkData { min_time, max_time, ..c }
            });
            sorted.insert(Labels::from_pairs(&labels), chunks.collect());
        }
        sorted.into_iter().collect()
    })
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![Just(MatchOp::Equal), Just(MatchOp::NotEqual), Just(MatchOp::Regex), Just(MatchOp::NotRegex)];
    let pattern = prop_oneof![
        value().prop_map(|v| v.replace(|c: char| !c.is_alphanumeric(), "")),
        Just(String::new()),
        Just("a|b|12".to_owned()),
        Just("a.*".to_owned()),
        Just(".*".to_owned()),
        Just(".+".to_owned()),
        Just("|a".to_owned()),
        Just("[0-9]+".to_owned()),
    ];
    (op, name(), pattern).prop_map(|(op, name, pattern)| Matcher::new(op, name, pattern).expect("pattern"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn what_goes_in_comes_out(content in content(40), segment in prop_oneof![Just(None), (50u64..4000).prop_map(Some)]) {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), id(1), &content, segment);
        prop_assert_eq!(&read(&written.dir), &content);
        prop_assert_eq!(written.meta.stats.num_series, content.len() as u64);
        // Nothing but the block is left.
        let names: Vec<_> = files(dir.path()).into_iter().map(|f| f.0).collect();
        prop_assert!(names.iter().all(|n| n.starts_with(&id(1).to_string()) && !n.contains("tmp")), "{:?}", names);
    }

    #[test]
    fn series_are_found_by_their_labels(
        content in content(60),
        matchers in prop::collection::vec(matcher(), 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), id(1), &content, None);
        let path = written.dir.join(index::INDEX_FILE);
        let bytes = RealDisk.open(&path).unwrap();
        let index = index::Reader::open("index", bytes.clone()).unwrap();
        let mut found = Vec::new();
        let (mut series, mut symbols) = (index::Series::default(), index.symbols().cached());
        let references = index.select(&matchers).unwrap();
        for r in &references {
            index.series(*r, &mut series).unwrap();
            found.push(series.labels("index", 0, &mut symbols).unwrap());
        }
        let want: Vec<Labels> =
            content.iter().map(|c| c.0.clone()).filter(|l| matchers.iter().all(|m| m.matches_labels(l))).collect();
        prop_assert_eq!(&found, &want, "{:?}", matchers);

        // The same from the index-header, with lists fetched by range.
        let to = dir.path().join(header::HEADER_FILE);
        let mut asked = 0u64;
        header::build(&RealDisk, &to, "index", bytes.len() as u64, |range| {
            asked += range.end - range.start;
            Ok(bytes.slice(range.start as usize..range.end as usize))
        }).unwrap();
        let header = header::Reader::open("index-header", RealDisk.open(&to).unwrap()).unwrap();
        prop_assert!(asked <= bytes.len() as u64 + 57);
        let plan = Plan::new(header.table(), &matchers).unwrap();
        let from_header = plan.evaluate(|place| {
            read_list("index", &bytes[place.start as usize..place.end as usize], place.start)
        }).unwrap();
        prop_assert_eq!(from_header, references);
        prop_assert_eq!(header.series(), index.toc().series..index.toc().series_end());
        let mut memory = index::SymbolMemory::default();
        for (n, symbol) in index.symbols().iter() {
            let symbol = std::str::from_utf8(symbol).unwrap();
            prop_assert_eq!(header.symbols().lookup(n).unwrap(), symbol);
            prop_assert_eq!(header.symbols().remembered(n, &mut memory).unwrap(), symbol);
            prop_assert_eq!(header.symbols().remembered(n, &mut memory).unwrap(), symbol);
            prop_assert_eq!(index.symbols().find(symbol), Some(n));
        }
        prop_assert_eq!(index.symbols().find("\u{1}nowhere"), None);
        // Names and values in order.
        let mut values: BTreeMap<&str, std::collections::BTreeSet<&str>> = BTreeMap::new();
        for (n, v) in content.iter().flat_map(|(l, _)| l) {
            values.entry(n).or_default().insert(v);
        }
        let names: Vec<&str> = header.table().names().map(Result::unwrap).collect();
        prop_assert_eq!(&names, &values.keys().copied().collect::<Vec<_>>());
        for (name, values) in &values {
            let found: Vec<&str> = header.table().values(name).map(|v| v.unwrap().value).collect();
            prop_assert_eq!(found, values.iter().copied().collect::<Vec<_>>());
        }
    }
}

#[test]
fn many_values_and_many_symbols() {
    let content: Content = (0..5000)
        .map(|i| {
            let labels = Labels::from_pairs([("a", format!("{i:05}").as_str()), ("b", ["x", "y"][i % 2])]);
            (labels, vec![ChunkData { encoding: 1, data: vec![0, 1, 9], min_time: i as i64, max_time: i as i64 }])
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), id(1), &content, None);
    assert_eq!(read(&written.dir), content);
    let index = index::Reader::open("index", RealDisk.open(&written.dir.join("index")).unwrap()).unwrap();
    for (i, (labels, _)) in content.iter().enumerate() {
        assert_eq!(index.postings("a", labels.value("a")).unwrap().len(), 1, "{i}");
    }
    assert_eq!(index.postings("b", "y").unwrap().len(), 2500);
    assert!(index.postings("a", "00000x").unwrap().is_empty() && index.postings("c", "").unwrap().is_empty());
    let regex = Matcher::new(MatchOp::Regex, "a", "0123.").unwrap();
    assert_eq!(index.select(&[regex, Matcher::equal("b", "x")]).unwrap().len(), 5);
    let from: Vec<_> = index.table().values_from("a", "04998x").map(|v| v.unwrap().value.to_owned()).collect();
    assert_eq!(from, ["04999"]);
    // 4 bytes per 32 values, 8 per name, and what vectors hold in reserve.
    assert!(index.table().memory() < 2048, "{}", index.table().memory());
}

#[test]
fn what_can_not_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let one = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
    let meta = |min_time, max_time, reference| index::ChunkMeta { min_time, max_time, reference };
    let mut w = index::Writer::create(&RealDisk, &path).unwrap();
    w.add_symbol("a").unwrap();
    assert!(w.add_symbol("a").unwrap_err().to_string().contains("must be sorted"));
    w.add_symbol("b").unwrap();
    w.add_series(&one(&[("a", "b")]), &[meta(1, 2, 8)]).unwrap();
    for (labels, chunks, says) in [
        (one(&[("a", "b")]), vec![meta(5, 6, 9)], "must be sorted"),
        (one(&[("b", "c")]), vec![meta(5, 6, 9)], "not among the symbols"),
        (Labels::empty(), vec![meta(5, 6, 9)], "must have labels"),
        (one(&[("b", "b")]), vec![meta(5, 6, 7)], "the one before at 8"),
        (one(&[("b", "b")]), vec![meta(6, 5, 9)], "goes from 6 to 5 ms"),
        (one(&[("b", "b")]), vec![meta(5, 6, 9), meta(6, 7, 10)], "after one that ends at Some(6)"),
    ] {
        let error = w.add_series(&labels, &chunks).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(w.add_symbol("c").is_err());
    drop(w);
    assert_eq!(RealDisk.list(dir.path()).unwrap(), []);
}
