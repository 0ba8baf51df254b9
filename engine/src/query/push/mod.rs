//! Aggregations that queriers behind this one evaluate: their answers travel instead of their series.
//!
//! Which parts of a query may be is [`split`]'s, by whom [`proof`]'s, how they are asked [`ask`]'s. It is done only where the
//! answer is the same, and whatever is in doubt when the answers come (a warning, an error, silence, a histogram, labels or times
//! that nobody asked for) ends it: then the query is answered from series, as without.

mod ask;
mod bound;
mod proof;
mod split;

pub(super) use ask::Coming;
pub(super) use bound::Bound;
pub(super) use split::RESERVED;

use super::endpoints::{Asked, Endpoints};
use super::eval::Settings;
use super::fanout::Stores;
use super::store::{Info, Offer, Question, Store, agrees};
use crate::server::metrics::Metrics;
use args::{DedupFunc, PushDown, QueryArgs};
use model::world::World;
use model::{Labels, Matcher};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use promql::exec::{EngineOptions, Plan, Times};
use promql::parse::{AggregateExpr, Expr, VectorSelector};
use split::Grade;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a querier that failed, or a part whose answer did not fit, is not tried again.
const PAUSE: Duration = Duration::from_secs(30);
/// Most parts that are remembered as unfit.
const MAX_UNFIT: usize = 1000;

/// What decides how a querier with these flags evaluates; two with the same text give the same answers to the same data.
pub(super) fn settings(args: &QueryArgs) -> String {
    let mut features = super::split_list(args.features.iter().map(String::as_str));
    features.sort();
    features.dedup();
    format!(
        "1 deduplication.func={} dynamic-lookback-delta={} enable-x-functions={} default-evaluation-interval={} features={}",
        args.deduplication_func,
        args.dynamic_lookback_delta,
        args.x_functions,
        args.default_evaluation_interval,
        features.join(",")
    )
}

/// Decides what is evaluated elsewhere.
pub(super) struct Push {
    mode: PushDown,
    dedup: DedupFunc,
    settings: String,
    world: World,
    /// Stores that failed, and parts that did not fit, until when.
    paused: Mutex<BTreeMap<String, Duration>>,
    asked: Counter,
    refused: Counter,
}

/// One who evaluates a part.
struct Asking {
    store: Arc<Store>,
    /// What it is asked.
    query: String,
    /// What the proof was made with; see [`super::store::hash_of`].
    advertised: u64,
    /// Of what it advertises what the conditions leave.
    sets: Vec<Labels>,
}

/// A part of a query, and who evaluates it.
struct Slot {
    /// Who evaluates it.
    by: Vec<Asking>,
    /// The labels of an answer: these, or all but these.
    grouping: Vec<String>,
    without: bool,
    /// Who is asked for series beside them: all others, as they were when the proof was made.
    rest: Stores,
    /// What the proof says of their series: those who evaluate have none of them.
    apart: Bound,
}

/// What of one query is evaluated elsewhere.
pub(super) struct Pushed {
    slots: Vec<Slot>,
    refused: AtomicBool,
    /// A series has come that the proof does not allow for.
    broken: Arc<AtomicBool>,
}

impl Push {
    pub(super) fn new(args: &QueryArgs, world: World, metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            mode: args.push_down,
            dedup: args.deduplication_func,
            settings: settings(args),
            world,
            paused: Mutex::default(),
            asked: counter(
                "panoptes_query_pushed_down",
                "Parts of queries that queriers behind this one were asked for",
            ),
            refused: counter(
                "panoptes_query_push_down_refused",
                "Queries that were answered from series after all, since an answer of a querier behind this one did not fit",
            ),
        }
    }

    /// The query with its parts replaced that others evaluate; nothing if there is none.
    pub(super) fn distribute(
        &self,
        endpoints: &Endpoints,
        expr: &Expr,
        times: Times,
        settings: &Settings,
        options: &EngineOptions,
    ) -> Option<(Expr, Arc<Pushed>)> {
        // Samples that others read are not counted here.
        if self.mode == PushDown::Off || settings.shard.is_some() || settings.count_samples {
            return None;
        }
        let mut expr = expr.clone();
        let mut taken = false;
        let reserved = |v: &VectorSelector| v.matchers.iter().any(|m| RESERVED.contains(&m.name.as_str()));
        split::selectors(&mut expr, &mut |v| taken |= reserved(v));
        let (first, step) = match times {
            Times::Instant(t) => (t, 0),
            Times::Range { start, step, .. } => (start, step),
        };
        // 0 means now to Thanos.
        if taken || first <= 0 {
            return None;
        }
        let whole = |ms: i64| ms % 1000 == 0;
        let plain = whole(first) && whole(step) && whole(settings.lookback_ms) && settings.max_resolution_ms == 0;
        let mut slots: Vec<Slot> = Vec::new();
        let broken = Arc::default();
        let close = self.mode == PushDown::Close;
        split::replace(&mut expr, close, &mut |part, grade| {
            let (by, rest) = self.able(endpoints, part, grade, plain, times, settings, options);
            let query = &by.first()?.query;
            let names: Vec<String> = by.iter().map(|b| b.store.name()).collect();
            // What stands in a query twice is asked once.
            let texts = |by: &[Asking]| by.iter().map(|b| (b.store.name(), b.query.clone())).collect::<Vec<_>>();
            let known = slots.iter().position(|s| texts(&s.by) == texts(&by));
            let new = split::replacement(part, known.unwrap_or(slots.len()), query, &names.join(", "));
            if known.is_none() {
                let sets = by.iter().flat_map(|b| &b.sets);
                let apart = Bound::apart(sets, &settings.replica_labels, &broken);
                let (grouping, without) = (part.grouping.clone(), part.without);
                slots.push(Slot { by, grouping, without, rest: Arc::new(rest), apart });
            }
            Some(new)
        });
        let pushed = Pushed { slots, refused: AtomicBool::new(false), broken };
        (!pushed.slots.is_empty()).then(|| (expr, Arc::new(pushed)))
    }

    /// Who may evaluate a part, and what each is to be asked; and who else has series of it.
    #[allow(clippy::too_many_arguments, reason = "all of one question")]
    fn able(
        &self,
        endpoints: &Endpoints,
        part: &AggregateExpr,
        grade: Grade,
        plain: bool,
        times: Times,
        settings: &Settings,
        options: &EngineOptions,
    ) -> (Vec<Asking>, Vec<Vec<Arc<Store>>>) {
        let nobody = (Vec::new(), Vec::new());
        let alone = Expr::Aggregate(Box::new(part.clone()));
        let Ok(plan) = Plan::from_expr("", &alone, times, options) else { return nobody };
        let [select] = plan.selects() else { return nobody };
        let (matchers, mint, maxt) = (select.matchers.as_slice(), select.mint, select.maxt);
        let all = endpoints.ask(&Question { matchers, mint, maxt, offer: Offer::Store, only: &settings.only });
        let mut stores: Vec<Vec<Arc<Store>>> = Vec::with_capacity(all.len());
        for asked in all {
            match asked {
                Asked::Store(places) => stores.push(places),
                // What it has nobody knows, and there is no whole answer without it.
                Asked::Missing { .. } => return nobody,
            }
        }
        let request = proof::Request {
            matchers,
            dropped: &settings.replica_labels,
            plain,
            thanos_dedup: settings.replica_labels.is_empty() || self.dedup == DedupFunc::Penalty,
            settings: &self.settings,
            close: self.mode == PushDown::Close,
        };
        let (mut able, mut rest) = nobody;
        for (i, places) in stores.iter().enumerate() {
            // Of a group every place is the same store.
            let Some(store) = places.first() else { continue };
            let others = stores.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, s)| s).map(|s| &**s);
            let query = split::text(part, store.guard().as_ref());
            let paused = self.is_paused(&store.name()) || self.is_paused(&query);
            // What it advertises is read first: what has changed since is found out when it is asked.
            let matching = |i: &Info| i.label_sets.iter().filter(|s| agrees(s, matchers)).cloned().collect();
            let says = |i: Arc<Info>| (i.advertised, matching(&i));
            let (advertised, sets) = store.truth().info.map(says).unwrap_or_default();
            if !paused && request.may(store, grade, others) {
                able.push(Asking { store: Arc::clone(store), query, advertised, sets });
            } else {
                rest.push(places.clone());
            }
        }
        (able, rest)
    }

    fn is_paused(&self, what: &str) -> bool {
        let now = self.world.clock.elapsed();
        self.paused.lock().get(what).is_some_and(|until| *until > now)
    }

    /// A query is answered from series after all.
    pub(super) fn give_up(&self, pushed: &Pushed) {
        self.refused.inc();
        if pushed.broken.load(Ordering::Relaxed) {
            pushed.slots.iter().flat_map(|s| &s.by).for_each(|by| self.pause(by.query.clone()));
        }
    }

    /// Does not try this again for a while.
    fn pause(&self, what: String) {
        let now = self.world.clock.elapsed();
        let mut paused = self.paused.lock();
        paused.retain(|_, until| *until > now);
        if paused.len() < MAX_UNFIT {
            paused.insert(what, now + PAUSE);
        }
    }
}

impl Pushed {
    /// True if the query is to be answered from series after all.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) || self.broken.load(Ordering::Relaxed)
    }

    /// The part whose answers a selector with these conditions reads.
    pub(super) fn answers(&self, matchers: &[Matcher]) -> Option<usize> {
        number(matchers, split::PUSHED).filter(|at| *at < self.slots.len())
    }

    /// Takes out of a selector's conditions what says that a part of the stores is asked, and gives those, with what must be
    /// true of their series.
    pub(super) fn elsewhere(&self, matchers: &mut Vec<Matcher>) -> Option<(Stores, Bound)> {
        let slot = number(matchers, split::ELSEWHERE).and_then(|at| self.slots.get(at))?;
        matchers.retain(|m| m.name != split::ELSEWHERE);
        Some((Arc::clone(&slot.rest), slot.apart.clone()))
    }
}

fn number(matchers: &[Matcher], label: &str) -> Option<usize> {
    matchers.iter().find(|m| m.name == label).and_then(|m| m.value.parse().ok())
}
