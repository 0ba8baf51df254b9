//! A new block into the bucket, as every producer sends one: intent, files, a look at what arrived, meta.json, commit.

use super::super::Fault;
use super::Bench;
use crate::storage::hash::sha256;
use args::HashFunc;
use bucket::{block, catalogue};
use futures::{StreamExt as _, TryStreamExt as _};
use model::protection;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::block::Written;
use tsdb::index::INDEX_FILE;
use tsdb::meta::{File, Hash, META_FILE, UploadTime};
use tsdb::segment::CHUNKS_DIR;

/// Sends a block, and removes it from the disk. Gives its meta.json.
pub(super) async fn block(bench: &Bench<'_>, written: &Written) -> Result<BlockMeta, Fault> {
    let (compactor, effects) = (bench.compactor, &bench.effects);
    let (disk, bucket, lease) = (&compactor.disk, &effects.bucket, &effects.lease);
    let id = written.meta.id;
    let mut files = Vec::new();
    for entry in disk.list(&written.dir.join(CHUNKS_DIR))? {
        files.push((format!("{CHUNKS_DIR}/{}", entry.name), entry.size));
    }
    files.sort();
    let told = written.meta.thanos.as_ref().map(|t| t.segment_files.as_slice()).unwrap_or_default();
    if !files.iter().map(|(path, _)| path.trim_start_matches(CHUNKS_DIR).trim_start_matches('/')).eq(told) {
        let what =
            "files of a new block are missing under --data-dir: another process uses it; give each compactor its own";
        return Err(Fault::Held(what.to_owned()));
    }
    files.push((INDEX_FILE.to_owned(), disk.size(&written.dir.join(INDEX_FILE))?));
    let mut meta = written.meta.clone();
    let thanos = meta.thanos.get_or_insert_default();
    thanos.files = files.iter().map(|(path, size)| File::new(path, *size)).chain([File::new(META_FILE, 0)]).collect();
    if compactor.options.hash == HashFunc::Sha256 {
        let (disk, dir, mut told) = (Arc::clone(disk), written.dir.clone(), std::mem::take(&mut thanos.files));
        let hash = move || {
            for file in told.iter_mut().filter(|f| f.rel_path != META_FILE) {
                let value = sha256(&*disk, &dir.join(&file.rel_path))?;
                file.hash = Some(Hash { function: "SHA256".to_owned(), value, unknown: Default::default() });
            }
            Ok(told)
        };
        thanos.files = super::blocking(compactor, hash).await?;
    }
    thanos.files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));

    lease.check()?;
    let announced = files.iter().map(|(path, size)| catalogue::File { path: path.clone(), size: *size }).collect();
    bench.announced.lock().insert(id);
    bench.catalogue.intent(id, announced).await?;
    if protection::off("compact-meta-last") {
        bucket.create(&block::object(id, block::META), meta.write()?).await?;
    }
    // Segments first, the index last.
    let (index, segments): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| path == INDEX_FILE);
    for group in [segments, index] {
        let mut sent = futures::stream::iter(group)
            .map(|(path, _)| async move {
                lease.check()?;
                let (object, file) = (block::object(id, path), written.dir.join(path));
                bucket.upload_file(&object, &**disk, &file).await.map_err(|e| match e.kind {
                    bucket::Kind::Local => {
                        Fault::Disk(tsdb::Error::io(file.display(), "read", std::io::Error::other(e)))
                    }
                    _ => Fault::Bucket(e),
                })
            })
            .buffer_unordered(compactor.options.files.max(1));
        while sent.try_next().await?.is_some() {}
    }
    match block::check_uploaded(bucket, id, &files).await {
        // A listing may be behind; what is asked for by name is not.
        Err(e) if e.kind == bucket::Kind::Corrupt && effects.is_whole(&meta).await? => {}
        checked => checked?,
    }
    thanos_time(&mut meta, compactor.world.clock.now_ms());
    lease.confirm().await?;
    match bucket.create(&block::object(id, block::META), meta.write()?).await {
        Ok(_) => {}
        Err(_) if protection::off("compact-meta-last") => {}
        Err(e) => return Err(e.into()),
    }
    lease.check()?;
    bench.catalogue.commit(&meta).await?;
    let (disk, dir) = (Arc::clone(disk), written.dir.clone());
    super::blocking(compactor, move || Ok(disk.remove_dir(&dir)?)).await?;
    Ok(meta)
}

fn thanos_time(meta: &mut BlockMeta, now: i64) {
    if let Some(thanos) = &mut meta.thanos {
        thanos.upload_time = UploadTime::from_ms(now);
    }
}
