//! One store's part of a Series call: its messages, read as there is memory for them, given on decoded. A store that is offered
//! at several places is asked at another one when the first lags or fails, which goes on where the first ended.

use super::budget::Taken;
use super::buffers::{Call, Grant};
use super::fanout::{Counted, Deadlines, Failed, Fanout, Select, own_limit, said_by, strategy};
use super::hedge;
use super::series::{Aggregates, Chunk, Series, Slot};
use super::store::{Store, bounded};
use crate::server::client;
use model::Labels;
use proto::thanos::{self, SeriesRequest, SeriesResponse, series_response};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

/// Most bytes of series that are held to be sorted again, for a store that can't leave out replica labels itself.
const MAX_RESORT: usize = 256 << 20;

pub(super) fn encode_limit(limit: Option<usize>) -> i64 {
    limit.and_then(|l| i64::try_from(l).ok()).unwrap_or(0)
}

fn request(store: &Store, select: &Select, batch: usize) -> SeriesRequest {
    let shard = select.shard.as_ref().filter(|_| shards(store, select));
    SeriesRequest {
        min_time: select.mint,
        max_time: select.maxt,
        matchers: proto::matchers::encode(&store.guarded(&select.matchers)),
        max_resolution_window: select.detail.max_resolution,
        aggregates: select.detail.aggregates.iter().map(|a| (*a).into()).collect(),
        partial_response_disabled: !select.terms.partial,
        partial_response_strategy: strategy(select.terms.partial).into(),
        skip_chunks: select.skip_chunks,
        without_replica_labels: select.without.clone(),
        // A store that gives more than the share must not count what does not belong to it.
        limit: if select.shard.is_some() && shard.is_none() { 0 } else { encode_limit(select.limit) },
        shard_info: shard.map(|s| s.encode()),
        response_batch_size: i64::try_from(batch).unwrap_or(1),
        ..Default::default()
    }
}

/// True if the store itself can leave out what is not in the share. It can't if labels are taken out only here: which share a
/// series belongs to is decided by those that it has in the end.
fn shards(store: &Store, select: &Select) -> bool {
    let able = store.truth().info.is_some_and(|i| i.sharding);
    able && strip(store, select).is_empty()
}

/// The labels that must be taken out here, since the store can't.
fn strip(store: &Store, select: &Select) -> Vec<String> {
    let able = store.truth().info.is_some_and(|i| i.without_replica_labels);
    if able { Vec::new() } else { select.without.clone() }
}

/// A piece of a store's answer.
pub(super) enum Message {
    /// What follows is of this place.
    Place(Arc<Store>),
    /// With the memory that they hold.
    Series(Vec<Series>, Option<Grant>),
    /// It lacks something.
    Warning(String),
    /// There is no more, for this reason.
    Failed(String),
    /// The request has no memory for more.
    Full(Failed),
}

/// Why a call has ended early; `None`: nobody listens any more.
type End = Option<(Code, String)>;

/// A call, before it runs.
pub(super) struct StoreCall {
    /// Where the store is offered, the first one first.
    pub(super) places: Vec<Arc<Store>>,
    pub(super) select: Arc<Select>,
    /// Most series in a message.
    pub(super) batch: usize,
    /// See [`Chunk::source`].
    pub(super) source: u32,
    /// What the first place's messages hold.
    pub(super) memory: Arc<Call>,
    pub(super) fanout: Fanout,
}

/// A place that has begun to answer.
struct Open<'a> {
    store: &'a Arc<Store>,
    memory: Arc<Call>,
    /// The times that it was known to have data of.
    known: (i64, i64),
    deadlines: Deadlines,
    stream: Streaming<SeriesResponse>,
    first: Option<SeriesResponse>,
    counted: Counted,
}

/// A call that was given up before it answered: its memory is free when this is dropped.
struct Unused<'a>(Option<&'a Call>);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.0 {
            memory.forget();
        }
    }
}

impl StoreCall {
    /// Runs the call to its end, its failure, or until nobody listens.
    pub(super) async fn run(self, to: mpsc::Sender<Message>) {
        match self.stream(&to).await {
            Err(Some(_)) if model::protection::off("missing-told") => {}
            Err(Some((_, reason))) => {
                // Nobody may listen any more.
                let _ = to.send(Message::Failed(bounded(reason))).await;
            }
            Ok(()) | Err(None) => {}
        }
    }

    async fn stream(&self, to: &mpsc::Sender<Message>) -> Result<(), End> {
        let mut failed = Vec::new();
        let mut broken = BTreeSet::<usize>::new();
        // The last label set that was given on: another place goes on there.
        let mut given: Option<Labels> = None;
        // Of which place the merge thinks that it hears.
        let mut told = 0;
        loop {
            // One that was only slower than another is asked again when that breaks.
            let rest: Vec<usize> = (0..self.places.len()).filter(|at| !broken.contains(at)).collect();
            let first = rest.first().and_then(|at| self.places.get(*at..=*at)).unwrap_or_default();
            let delay = self.fanout.hedge_delay(&self.select.terms, first);
            let open = |_, at: &usize| self.open(to, *at);
            let held = || self.memory.is_waiting();
            let over = match hedge::first_of(&rest, delay, &self.fanout.hedges, held, open).await {
                Ok((nth, open)) => {
                    if rest.get(nth) != Some(&told) && !model::protection::off("place-told") {
                        told = rest.get(nth).copied().unwrap_or_default();
                        to.send(Message::Place(Arc::clone(open.store))).await.map_err(|_| None)?;
                    }
                    let address = open.store.place.address.clone();
                    let Err(end) = self.drain(to, open, &mut given).await else { return Ok(()) };
                    let (code, reason) = end.ok_or(None)?;
                    failed.push((code, (address, reason)));
                    broken.extend(rest.get(nth));
                    if model::protection::off("slower-again") {
                        broken.extend(0..nth);
                    }
                    broken.len() >= self.places.len()
                }
                Err(all) => {
                    for end in all {
                        failed.push(end.ok_or(None)?);
                    }
                    true
                }
            };
            if over {
                let code = failed.first().map_or(Code::Unavailable, |(code, _)| *code);
                let reasons: Vec<(String, String)> = failed.into_iter().map(|(_, reason)| reason).collect();
                return Err(Some((code, said_by(&reasons))));
            }
        }
    }

    /// Asks one place and reads its first message.
    async fn open(&self, to: &mpsc::Sender<Message>, at: usize) -> Result<Open<'_>, Option<(Code, (String, String))>> {
        let store = self.places.get(at).ok_or(None)?;
        let memory = match at {
            0 => Arc::clone(&self.memory),
            // Nobody but this call waits for it.
            _ => Call::needed(&self.select.terms.buffers),
        };
        let deadlines = self.fanout.deadlines(&self.select.terms, store);
        let known = store.says_times();
        let mut counted = self.fanout.begin("server_stream", "Series");
        let begin = self.fanout.world.clock.elapsed();
        let request = request(store, &self.select, self.batch);
        let status = |s: tonic::Status| Some((s.code(), store.explain(&s)));
        let call = client::retrying(|| {
            let left = deadlines.end.saturating_sub(self.fanout.world.clock.elapsed());
            let (mut client, request) = (store.client(&memory), store.request(request.clone(), left));
            async move { client.series(request).await }
        });
        let opening = async {
            let mut stream = self.wait(to, store, &memory, deadlines, call).await?.map_err(status)?.into_inner();
            if !strip(store, &self.select).is_empty() {
                memory.need();
            }
            let first = self.wait(to, store, &memory, deadlines, stream.message()).await?.map_err(status)?;
            Ok::<_, End>((stream, first))
        };
        let mut unused = Unused(Some(&memory));
        let opened = opening.await;
        match opened {
            Ok((stream, first)) => {
                unused.0 = None;
                if !memory.has_waited() {
                    store.began_after(self.fanout.world.clock.elapsed().saturating_sub(begin));
                }
                drop(unused);
                Ok(Open { store, memory, known, deadlines, stream, first, counted })
            }
            Err(end) => {
                let (code, reason) = end.ok_or(None)?;
                counted.code = code;
                Err(Some((code, (store.place.address.clone(), reason))))
            }
        }
    }

    /// Gives on what a place sends.
    async fn drain(&self, to: &mpsc::Sender<Message>, open: Open<'_>, given: &mut Option<Labels>) -> Result<(), End> {
        let Open { store, memory, known, deadlines, mut stream, first, mut counted } = open;
        let work = async {
            if let Some(lie) = store.lies_about_times() {
                to.send(Message::Warning(lie)).await.map_err(|_| None)?;
            }
            let status = |s: tonic::Status| Some((s.code(), store.explain(&s)));
            let strip = strip(store, &self.select);
            let resumed = given.clone();
            let mut unsorted: Vec<Series> = Vec::new();
            // Given back when the series are on their way: whoever collects them takes it again.
            let mut held = Taken::new(&self.select.terms.budget);
            let mut next = first;
            while let Some(frame) = next {
                self.frame(
                    to,
                    frame,
                    (store, known),
                    &memory,
                    &strip,
                    resumed.as_ref(),
                    given,
                    &mut unsorted,
                    &mut held,
                )
                .await?;
                let elsewhere = !Arc::ptr_eq(&memory, &self.memory) && !model::protection::off("place-need");
                if !strip.is_empty() || elsewhere {
                    // All of it is needed before the first can be given on; and of another place than the first the merge can't
                    // say what it needs.
                    memory.need();
                }
                next = self.wait(to, store, &memory, deadlines, stream.message()).await?.map_err(status)?;
            }
            if !unsorted.is_empty() {
                unsorted.sort_by(|a, b| a.labels.cmp(&b.labels));
                to.send(Message::Series(unsorted, None)).await.map_err(|_| None)?;
            }
            Ok(())
        };
        let outcome: Result<(), End> = work.await;
        counted.code = match &outcome {
            Ok(()) => Code::Ok,
            Err(Some((code, _))) => *code,
            Err(None) => Code::Cancelled,
        };
        outcome
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one loop")]
    async fn frame(
        &self,
        to: &mpsc::Sender<Message>,
        frame: SeriesResponse,
        (store, known): (&Store, (i64, i64)),
        memory: &Call,
        strip: &[String],
        resumed: Option<&Labels>,
        given: &mut Option<Labels>,
        unsorted: &mut Vec<Series>,
        held: &mut Taken<'_>,
    ) -> Result<(), End> {
        let mut grant = memory.received();
        let found = match frame.result {
            Some(series_response::Result::Series(s)) => vec![s],
            Some(series_response::Result::Batch(b)) => b.series,
            Some(series_response::Result::Warning(w)) if own_limit(&w, self.select.limit) => return Ok(()),
            Some(series_response::Result::Warning(w)) => {
                return to.send(Message::Warning(bounded(w))).await.map_err(|_| None);
            }
            Some(series_response::Result::Hints(_)) | None => return Ok(()),
        };
        let mut batch = Vec::with_capacity(found.len());
        for s in found {
            batch.push(decode(s, self.source).map_err(|e| Some((Code::DataLoss, e)))?);
        }
        let times = batch.iter().flat_map(|s| &s.chunks).map(|c| (c.min_time, c.max_time));
        store.has_sent(known, times, self.fanout.world.clock.now_ms());
        if strip.is_empty() {
            // The last series may have been sent in part.
            batch.retain(|s| resumed.is_none_or(|last| s.labels >= *last));
            let Some(last) = batch.last() else { return Ok(()) };
            if self.places.len() > 1 {
                *given = Some(last.labels.clone());
            }
            // The chunks are slices of the message; what is made of it comes on top.
            let made = batch.iter().map(Series::overhead).sum();
            grant.iter_mut().for_each(|g| g.grow(made));
            return to.send(Message::Series(batch, grant)).await.map_err(|_| None);
        }
        for mut s in batch {
            s.labels = s.labels.without(strip);
            if let Err(full) = held.more(s.cost()) {
                // Ours, whatever the store does: it has not failed.
                let _ = to.send(Message::Full(full)).await;
                return Err(None);
            }
            unsorted.push(s);
        }
        if held.bytes() > MAX_RESORT {
            let text = format!("it can't leave out replica labels, and sent more than {MAX_RESORT} bytes to sort");
            return Err(Some((Code::ResourceExhausted, text)));
        }
        Ok(())
    }

    /// Waits for the store, at most its deadlines; ends early when nobody listens.
    async fn wait<T>(
        &self,
        to: &mpsc::Sender<Message>,
        store: &Store,
        memory: &Call,
        deadlines: Deadlines,
        answer: impl Future<Output = T>,
    ) -> Result<T, End> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let left = deadlines.end.saturating_sub(self.fanout.world.clock.elapsed());
            let mut limit = deadlines.frame.min(left);
            if model::protection::off("store-deadline") {
                limit = Duration::from_secs(3600);
            }
            tokio::select! {
                biased;
                () = to.closed(), if !model::protection::off("cancel") => return Err(None),
                answer = tokio::time::timeout(limit, answer.as_mut()) => if let Ok(answer) = answer {
                    return Ok(answer);
                }
            }
            // A store whose message we do not let in is not silent.
            let waiting = memory.is_waiting();
            let text = match left < deadlines.frame {
                true if waiting => "the time of the query was over while its answer waited for memory \
                                    (--query.buffer-bytes)"
                    .to_owned(),
                true => "it did not finish in the time of the query".to_owned(),
                false if waiting => continue,
                false => format!("it was silent for {limit:?}"),
            };
            if !waiting {
                self.select.terms.silent.lock().insert(store.place.address.clone());
            }
            return Err(Some((Code::DeadlineExceeded, text)));
        }
    }
}

/// Reads a series off the wire.
fn decode(series: thanos::Series, source: u32) -> Result<Series, String> {
    let labels = proto::labels::decode(&series.labels).map_err(|e| format!("it sent a bad series: {e}"))?;
    if let Some(c) = series.chunks.iter().find(|c| c.min_time > c.max_time) {
        return Err(format!(
            "it sent a chunk of {labels} that ends ({}) before it begins ({})",
            c.max_time, c.min_time
        ));
    }
    let chunks = series.chunks.into_iter().map(|c| chunk(c, source)).collect();
    Ok(Series { labels, chunks })
}

fn chunk(c: thanos::AggrChunk, source: u32) -> Chunk {
    let slot = |c: Option<thanos::Chunk>| c.map(|c| Slot { encoding: c.r#type, data: c.data, hash: c.hash });
    let aggregates = Aggregates {
        count: slot(c.count),
        sum: slot(c.sum),
        min: slot(c.min),
        max: slot(c.max),
        counter: slot(c.counter),
    };
    Chunk {
        min_time: c.min_time,
        max_time: c.max_time,
        raw: slot(c.raw),
        aggregates: (aggregates != Aggregates::default()).then(|| Box::new(aggregates)),
        source,
    }
}

/// Writes a series to the wire.
pub(super) fn encode(series: Series) -> thanos::Series {
    let slot = |s: Option<Slot>| s.map(|s| thanos::Chunk { r#type: s.encoding, data: s.data, hash: s.hash });
    let chunks = series.chunks.into_iter().map(|c| {
        let a = c.aggregates.map(|a| *a).unwrap_or_default();
        thanos::AggrChunk {
            min_time: c.min_time,
            max_time: c.max_time,
            raw: slot(c.raw),
            count: slot(a.count),
            sum: slot(a.sum),
            min: slot(a.min),
            max: slot(a.max),
            counter: slot(a.counter),
        }
    });
    thanos::Series { chunks: chunks.collect(), labels: proto::labels::encode(&series.labels) }
}
