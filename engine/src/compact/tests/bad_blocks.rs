//! G11: one bad block costs one block.

use super::*;
use bucket::{Bucket, block};
use model::BlockId;
use std::collections::BTreeSet;
use std::sync::Arc;
use testkit::goal::Goal;

/// Ways to damage a block, and what the compactor says of it.
const DAMAGES: [(&str, &str); 10] = [
    ("index flipped", "index"),
    ("index cut", "index has"),
    ("chunk flipped", "chunks/000001"),
    ("chunk cut", "chunks/000001 has"),
    ("chunks missing", "chunks/000001 is missing"),
    ("index missing", "index is missing"),
    ("meta broken", "meta.json"),
    ("mark of another version", "version 7"),
    ("overlap", "overlap"),
    ("index zeroed", "index"),
];

async fn damage(site: &mut Site, bucket: &Bucket, what: &str, id: BlockId, cluster: &str) {
    let file = |name: &str| block::object(id, name);
    let read = |path: String| site.memory.snapshot().get(&path).unwrap().to_vec();
    let (index, chunks) = (file("index"), file("chunks/000001"));
    match what {
        "index flipped" => {
            let mut bytes = read(index.clone());
            let at = bytes.len() / 2;
            bytes[at] ^= 0x10;
            bucket.put(&index, bytes).await.map(drop).unwrap();
        }
        "index cut" => bucket.put(&index, read(index.clone())[..100].to_vec()).await.map(drop).unwrap(),
        "index zeroed" => bucket.put(&index, vec![0; read(index.clone()).len()]).await.map(drop).unwrap(),
        "chunk flipped" => {
            let mut bytes = read(chunks.clone());
            bytes[40] ^= 0x10;
            bucket.put(&chunks, bytes).await.map(drop).unwrap();
        }
        "chunk cut" => bucket.put(&chunks, read(chunks.clone())[..50].to_vec()).await.map(drop).unwrap(),
        "chunks missing" => bucket.delete(&chunks).await.unwrap(),
        "index missing" => bucket.delete(&index).await.unwrap(),
        "meta broken" => bucket.put(&file("meta.json"), "{").await.map(drop).unwrap(),
        "mark of another version" => {
            let mark = format!(r#"{{"id":"{id}","version":7,"reason":"manual"}}"#);
            bucket.put(&file("no-compact-mark.json"), mark).await.map(drop).unwrap();
        }
        "overlap" => drop(site.block(HOUR, 2 * HOUR, &[("cluster", cluster)]).await),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn goal_g11_one_bad_block_costs_one_block() {
    let goal = Goal::start("G11");
    let rounds = goal.pick(1, 5, 50);
    let mut rng = goal.rng("blocks");
    for _ in 0..rounds {
        let mut site = Site::new(raw());
        let bucket = site.own_bucket();
        let mut damaged = Vec::new();
        let streams = 30;
        for n in 0..streams {
            let cluster = format!("c{n:02}");
            let mut ids = Vec::new();
            for k in 0..5 {
                ids.push(site.block(k * 2 * HOUR, 2 * HOUR, &[("cluster", &cluster)]).await);
            }
            if let Some((what, says)) = DAMAGES.get(n) {
                let id = ids[rng.below(4)];
                damage(&mut site, &bucket, what, id, &cluster).await;
                damaged.push((cluster, id, *what, *says));
            }
        }
        let compactor = site.compactor("one", Arc::new(site.disk.clone()));
        let lease = site.lease(&bucket, "one").await;
        let outcome = super::super::pass::Tenure::new(&compactor, &bucket, &lease).pass(&compactor).await;
        let live: Vec<_> = site.blocks().into_values().filter(|(_, marked)| !marked).collect();
        let bad: BTreeSet<&str> = damaged.iter().map(|(cluster, ..)| cluster.as_str()).collect();
        for n in 0..streams {
            let cluster = format!("c{n:02}");
            let wide =
                live.iter().any(|(m, _)| m.labels().value("cluster") == cluster && m.max_time - m.min_time == 8 * HOUR);
            assert!(wide || bad.contains(cluster.as_str()), "{cluster} is sound and was not compacted");
        }
        outcome.unwrap();
        // Each bad one is told: by a mark on the block, or among what is held.
        let state = compactor.progress.state();
        let marks: String = site
            .memory
            .snapshot()
            .iter()
            .filter(|(path, _)| path.ends_with("no-compact-mark.json"))
            .map(|(path, bytes)| format!("{path}: {}\n", String::from_utf8_lossy(bytes)))
            .collect();
        let held = compactor.progress.all_held();
        for (cluster, id, what, says) in &damaged {
            let told =
                |text: &str| (text.contains(&id.to_string()) || text.contains(cluster.as_str())) && text.contains(says);
            let is_told = marks.lines().any(told) || held.iter().any(|h| told(&format!("{} {}", h.what, h.why)));
            assert!(is_told, "{what} of {id} in {cluster} is not told: {marks} {held:#?}");
            // What is left of it stays.
            assert!(!site.names(&block::directory(*id)).is_empty());
        }
        assert!(state.held > 0 && state.error.is_none(), "{state:?}");
    }
    goal.figure(&format!("{rounds} × {} damages among 30 streams: all others compacted, each told", DAMAGES.len()));
}
