//! Runs queries: selects are fetched together, then evaluated on a CPU thread, within limits of number, time and bytes.

use super::admission::Admission;
use super::budget::Budget;
use super::downsampled::{self, View};
use super::fanout::{self, Detail, Fanout, Select, Terms};
use super::flow::{Ending, Flow, Opened};
use super::push::{self, Bound, Coming, Push, Pushed};
use super::samples::{Input, Inputs, Selected};
use super::series::Series;
use super::warning::{self, Warning};
use crate::server::metrics::Metrics;
use crate::storeapi::wire::Shard;
use args::{DedupFunc, QueryArgs};
use futures::StreamExt;
use model::world::World;
use model::{Labels, Matcher};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use promql::exec::{
    Account, EngineOptions, Explained, Helpers, Plan, QueryError, QueryResult, SelectRequest, Stop, Times,
};
use promql::parse::{Expr, parse_expr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Most threads that flags may ask for.
const MOST_THREADS: usize = 1024;

/// How a query is to be answered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest time it may take.
    pub timeout: Duration,
    /// Answer without stores that fail.
    pub partial: bool,
    /// Labels that tell replicas apart; empty for no deduplication.
    pub replica_labels: Vec<String>,
    /// How far back an instant selector looks, milliseconds.
    pub lookback_ms: i64,
    /// Measure what each part of the plan does.
    pub analyze: bool,
    /// Count the samples that steps look at.
    pub count_samples: bool,
    /// Largest distance of samples of the data, milliseconds; 0: as scraped only.
    pub max_resolution_ms: i64,
    /// Only these stores (`storeMatch[]`); see [`super::store::Question::only`].
    pub only: Arc<Vec<Vec<Matcher>>>,
    /// A share of the series.
    pub shard: Option<Arc<Shard>>,
    /// The label sets of which all series must be: whoever asks counts on it.
    pub within: Option<Arc<[Labels]>>,
}

/// How long the phases of a query took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a free place and for memory.
    pub queue: Duration,
    /// Fetching series.
    pub preparation: Duration,
    /// Evaluating.
    pub evaluation: Duration,
}

/// An answer.
pub struct Answer {
    /// The answer, with PromQL's warnings only.
    pub result: QueryResult,
    /// What stores did not contribute.
    pub missing: Vec<Warning>,
    /// How long it took.
    pub timings: Timings,
    /// What each part of the plan did, if that was asked for.
    pub analysis: Option<Explained>,
    /// What the answer holds is booked here until it is sent.
    pub account: Arc<Account>,
}

/// Stops an evaluation when its caller goes away.
struct StopOnDrop(Stop);
impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The engine.
#[derive(Clone)]
pub struct Evaluator {
    fanout: Fanout,
    world: World,
    base: EngineOptions,
    admission: Arc<Admission>,
    selects_at_once: usize,
    push: Arc<Push>,
    dedup: DedupFunc,
    dynamic_lookback: bool,
    places: Arc<Semaphore>,
    in_flight: Gauge,
    queries: Counter,
    waited: Histogram,
}

impl Evaluator {
    /// From the flags; refuses features that don't exist.
    pub fn new(args: &QueryArgs, fanout: Fanout, world: World, metrics: &Metrics) -> anyhow::Result<Self> {
        let places = usize::try_from(args.max_concurrent).unwrap_or(usize::MAX).clamp(1, 10_000);
        let max: Gauge = metrics.register(
            "thanos_query_concurrent_gate_queries_max",
            "Number of maximum concurrent queries",
            Gauge::default(),
        );
        max.set(i64::try_from(places).unwrap_or(i64::MAX));
        let admission = Arc::new(Admission::new(args, places, metrics));
        let process = Some(admission.budget());
        Ok(Self {
            push: Arc::new(Push::new(args, world.clone(), metrics)),
            fanout,
            world,
            base: EngineOptions { process, helpers: helpers(args.threads), ..options(args)? },
            admission,
            selects_at_once: usize::try_from(args.max_concurrent_select).unwrap_or(usize::MAX).clamp(1, 10_000),
            dedup: args.deduplication_func,
            dynamic_lookback: args.dynamic_lookback_delta.0,
            places: Arc::new(Semaphore::new(places)),
            in_flight: metrics.register(
                "thanos_query_concurrent_gate_queries_in_flight",
                "Number of queries that are currently in flight",
                Gauge::default(),
            ),
            queries: metrics.register(
                "thanos_query_concurrent_gate_queries",
                "Number of queries that passed the gate",
                Counter::default(),
            ),
            waited: metrics.register(
                "thanos_query_concurrent_gate_duration_seconds",
                "How many seconds it took for queries to wait at the gate",
                Histogram::new([0.01, 0.05, 0.1, 0.25, 0.6, 1.0, 2.0, 3.5, 5.0, 10.0]),
            ),
        })
    }

    /// The fan-out.
    pub fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// The parser's settings.
    pub fn options(&self) -> &EngineOptions {
        &self.base
    }

    /// Parses and plans, with what others evaluate as the stores are now.
    pub fn plan(&self, query: &str, times: Times, settings: &Settings) -> Result<Plan, QueryError> {
        let (options, expr) = self.parse(query, settings)?;
        match self.distribute(query, &expr, times, settings, &options)? {
            Some((plan, _)) => Ok(plan),
            None => Plan::from_expr(query, &expr, times, &options),
        }
    }

    fn parse(&self, query: &str, settings: &Settings) -> Result<(EngineOptions, Expr), QueryError> {
        let options = EngineOptions {
            lookback_ms: match self.dynamic_lookback {
                true => downsampled::lookback_for(settings.lookback_ms, settings.max_resolution_ms),
                false => settings.lookback_ms,
            },
            dropped_labels: Some(settings.replica_labels.clone()),
            count_samples: settings.count_samples,
            ..self.base.clone()
        };
        let expr = parse_expr(query, &options.parser)?;
        Ok((options, expr))
    }

    /// The plan in which others evaluate parts of the query, if there are any.
    fn distribute(
        &self,
        query: &str,
        expr: &Expr,
        times: Times,
        settings: &Settings,
        options: &EngineOptions,
    ) -> Result<Option<(Plan, Arc<Pushed>)>, QueryError> {
        let split = self.push.distribute(self.fanout.endpoints(), expr, times, settings, options);
        let Some((expr, pushed)) = split else { return Ok(None) };
        let mut options = options.clone();
        // They are asked of the source, and not of what it gives.
        options.dropped_labels.get_or_insert_default().extend(push::RESERVED.map(str::to_owned));
        Ok(Some((Plan::from_expr(query, &expr, times, &options)?, pushed)))
    }

    /// Parses, fetches, evaluates. Dropping the future stops all of it.
    pub async fn run(&self, query: &str, times: Times, settings: &Settings) -> Result<Answer, QueryError> {
        let (options, expr) = self.parse(query, settings)?;
        let begin = self.world.clock.elapsed();
        let work = async {
            let mut refused = false;
            if let Some((plan, pushed)) = self.distribute(query, &expr, times, settings, &options)? {
                refused = true;
                if let Some(answer) = self.run_plan(plan, settings, begin, Some(&pushed), false).await? {
                    return Ok(answer);
                }
                self.push.give_up(&pushed);
            }
            let plan = Plan::from_expr(query, &expr, times, &options)?;
            let answer = self.run_plan(plan, settings, begin, None, refused).await?;
            answer.ok_or_else(|| QueryError::Storage("the query was not evaluated".to_owned()))
        };
        match tokio::time::timeout(settings.timeout, work).await {
            Ok(answer) => answer,
            Err(_) => Err(QueryError::Timeout),
        }
    }

    /// Nothing if the answers of others, for what is `pushed`, are of no use: then it is run `again` without.
    async fn run_plan(
        &self,
        plan: Plan,
        settings: &Settings,
        begin: Duration,
        pushed: Option<&Arc<Pushed>>,
        again: bool,
    ) -> Result<Option<Answer>, QueryError> {
        let clock = &self.world.clock;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| QueryError::Canceled)?;
        let account = Arc::new(self.admission.enter(&self.base).await);
        let started = clock.elapsed();
        let in_flight = InFlight::new(&self.in_flight);
        let queue = started.saturating_sub(begin);
        if !again {
            self.queries.inc();
            self.waited.observe(queue.as_secs_f64());
        }

        let time_left = settings.timeout.saturating_sub(queue);
        let terms = self.fanout.terms_within(settings.partial, time_left, Budget::of(Arc::clone(&account)));
        let stop = StopOnDrop(Stop::new());
        let token = stop.0.clone();
        let why = |text: String| match account.overrun() {
            Some(overrun) => QueryError::TooManyBytes(Box::new(overrun.clone())),
            None => QueryError::Storage(text),
        };
        let fetched = self.fetch(&plan, &terms, settings, token.clone(), pushed).await;
        if pushed.is_some_and(|p| p.is_refused()) {
            return Ok(None);
        }
        let (inputs, mut missing) = fetched.map_err(|e| why(e.0))?;
        let prepared = clock.elapsed();
        let (booked, analyze) = (Arc::clone(&account), settings.analyze);
        let watch = Arc::clone(clock);
        let evaluation = tokio::task::spawn_blocking(move || {
            // The place is free when the thread is, also when nobody waits for the answer any more.
            let _held = (place, in_flight);
            let answer = match analyze {
                true => plan.analyze(&inputs, &token, &booked, &*watch).map(|(result, did)| (result, Some(did))),
                false => plan.execute_on(&inputs, &token, &booked).map(|result| (result, None)),
            };
            let told = inputs.take_warnings();
            drop(inputs);
            booked.give_back_fetched();
            answer.map(|answer| (answer, told))
        });
        let evaluated = evaluation.await;
        if pushed.is_some_and(|p| p.is_refused()) {
            return Ok(None);
        }
        let ((result, analysis), told) = match evaluated {
            // What was fetched meanwhile may have been too much.
            Ok(Err(QueryError::Storage(text))) => return Err(why(text)),
            Ok(result) => result?,
            // One bad query must not end the process.
            Err(error) => return Err(QueryError::Storage(format!("the evaluation ended abnormally: {error}"))),
        };
        told.into_iter().for_each(|w| warning::push(&mut missing, w));
        let timings = Timings {
            queue,
            preparation: prepared.saturating_sub(started),
            evaluation: clock.elapsed().saturating_sub(prepared),
        };
        Ok(Some(Answer { result, missing, timings, analysis, account }))
    }

    /// Fetches all selects, equal ones once: those that are read once only until an evaluation may begin, the others whole.
    async fn fetch(
        &self,
        plan: &Plan,
        terms: &Terms,
        settings: &Settings,
        stop: Stop,
        pushed: Option<&Arc<Pushed>>,
    ) -> Result<(Inputs, Vec<Warning>), fanout::Failed> {
        let coming = pushed.map(|p| Coming::begin(&self.push, p, &self.fanout, terms, plan.times(), settings));
        let mut distinct: Vec<(Vec<Matcher>, i64, i64, Detail)> = Vec::new();
        let (mut of_select, mut uses) = (Vec::with_capacity(plan.selects().len()), Vec::new());
        for s in plan.selects() {
            let of_this = plan.uses().iter().filter(|u| u.id == s.id);
            let detail = detail(of_this.clone(), settings.max_resolution_ms);
            let key = (s.matchers.clone(), s.mint, s.maxt, detail);
            let at = distinct.iter().position(|d| *d == key).unwrap_or_else(|| {
                distinct.push(key);
                uses.push(0);
                distinct.len() - 1
            });
            of_select.push(at);
            if let Some(n) = uses.get_mut(at) {
                *n += of_this.count();
            }
        }
        let selects: Vec<Select> = distinct
            .into_iter()
            .map(|(mut matchers, mint, maxt, detail)| {
                let (exactly, apart) = pushed.and_then(|p| p.elsewhere(&mut matchers)).unzip();
                let within = settings.within.as_ref().map(|sets| Bound::within(sets, &settings.replica_labels));
                Select {
                    mint,
                    maxt,
                    exactly,
                    bounds: apart.into_iter().chain(within).collect(),
                    matchers,
                    without: settings.replica_labels.clone(),
                    skip_chunks: false,
                    limit: None,
                    detail,
                    only: Arc::clone(&settings.only),
                    shard: settings.shard.clone(),
                    terms: terms.clone(),
                }
            })
            .collect();
        let allowed = settings.max_resolution_ms;
        // One that waits for its reader must not keep another from being read.
        let all_at_once = selects.len() <= self.selects_at_once && !model::protection::off("select-streams");
        let fetches = selects.clone().into_iter().zip(uses).map(|(select, uses)| {
            let (me, coming) = (self.clone(), coming.as_ref());
            let answers = pushed.and_then(|p| p.answers(&select.matchers));
            async move {
                if let (Some(at), Some(coming)) = (answers, coming) {
                    let answers = coming.take(at).await;
                    let refused = || fanout::Failed("the answer of a querier behind this one is of no use".to_owned());
                    return Ok((Input::Whole(answers.ok_or_else(refused)?), Vec::new()));
                }
                if uses == 1 && all_at_once {
                    let opened = me.open(select, allowed);
                    opened.flow.begun().await?;
                    return Ok((Input::Flow(Arc::new(opened)), Vec::new()));
                }
                let (selected, warnings) = me.fetch_one(select, allowed).await?;
                Ok((Input::Whole(selected), warnings))
            }
        });
        let (mut fetched, mut missing) = (Vec::new(), Vec::new());
        let mut running = futures::stream::iter(fetches).buffered(self.selects_at_once);
        while let Some(input) = running.next().await {
            let (input, warnings) = input?;
            fetched.push(input);
            // One store may fail in different words, as in the first and in later selects: each is told.
            warnings.into_iter().for_each(|w| warning::push(&mut missing, w));
        }
        drop(running);
        let selected = of_select.iter().filter_map(|i| fetched.get(*i).cloned()).collect();
        let (me, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let again = move |id: usize| {
            let _in = runtime.enter();
            let mut select = selects.get(*of_select.get(id)?)?.clone();
            // The first pass told what is missing, and read the rest: a store that fails now would take steps away.
            select.terms.partial = false;
            Some(me.open(select, allowed))
        };
        let inputs =
            Inputs { selected, dedup: self.dedup, stop, again: Box::new(again), anew: parking_lot::Mutex::default() };
        Ok((inputs, missing))
    }
}

impl Evaluator {
    /// Fetches one select.
    async fn fetch_one(self, select: Select, allowed: i64) -> Result<(Selected, Vec<Warning>), fanout::Failed> {
        let mut stream = self.fanout.series(&select)?;
        let series: Vec<Series> = fanout::collect(&mut stream, &select.terms.budget).await?;
        let mut warnings = stream.take_warnings();
        drop(stream);
        if series.is_empty() {
            warnings.extend(self.coarser(&select, allowed).await?);
        }
        Ok((Selected(Arc::new(series)), warnings))
    }

    /// Begins to fetch one select.
    fn open(&self, select: Select, allowed: i64) -> Opened {
        let flow = Arc::new(Flow::new(Arc::clone(&select.terms.budget)));
        let (me, to) = (self.clone(), Ending(Arc::clone(&flow)));
        let writer = tokio::spawn(async move {
            let to = &to.0;
            let whole = async {
                let mut stream = me.fanout.series(&select)?;
                to.fill(&mut stream).await?;
                drop(stream);
                if to.count() == 0 {
                    to.warn(me.coarser(&select, allowed).await?.into_iter().collect());
                }
                Ok(())
            };
            to.end(whole.await);
        });
        Opened::new(flow, writer.abort_handle())
    }

    /// Of a select without series: what is there, but too coarse for its windows, is told of. `allowed` is how coarse the
    /// request would take it.
    async fn coarser(&self, select: &Select, allowed: i64) -> Result<Option<Warning>, fanout::Failed> {
        let wanted = select.detail.max_resolution;
        if wanted >= allowed {
            return Ok(None);
        }
        let detail = Detail { max_resolution: allowed, ..select.detail.clone() };
        let coarser = Select { detail, skip_chunks: true, limit: Some(1), ..select.clone() };
        let any = self.fanout.series(&coarser)?.next().await?.is_some();
        Ok(any.then(|| {
            Warning::from(format!(
                "the data of this range exists only at a coarser resolution than the {} s that its windows need: ask for \
                 longer windows",
                wanted / 1000
            ))
        }))
    }
}

/// What to ask stores for, so that each of these uses of one select can be answered.
fn detail<'a>(uses: impl Iterator<Item = &'a SelectRequest>, most: i64) -> Detail {
    if most <= 0 {
        return Detail::default();
    }
    let (mut max_resolution, mut aggregates) = (most, Vec::new());
    for hints in uses.map(|u| &u.hints) {
        max_resolution = max_resolution.min(downsampled::resolution_for(most, &hints.func, hints.range_ms));
        aggregates.extend(View::of(&hints.func).aggregates());
    }
    aggregates.sort_unstable();
    aggregates.dedup();
    Detail { max_resolution, aggregates }
}

/// One more, until it is dropped.
pub(super) struct InFlight(Gauge);
impl InFlight {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}
impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The threads beside those on which queries begin.
fn helpers(threads: u64) -> Helpers {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores() } else { usize::try_from(threads).unwrap_or(usize::MAX) };
    Helpers::new(threads.clamp(1, MOST_THREADS) - 1)
}

fn options(args: &QueryArgs) -> anyhow::Result<EngineOptions> {
    let mut options = EngineOptions {
        lookback_ms: args.lookback_delta.0,
        max_samples: args.max_samples,
        max_bytes: args.max_bytes,
        default_subquery_step_ms: args.default_evaluation_interval.0,
        ..EngineOptions::default()
    };
    options.parser.x_functions = args.x_functions.0;
    for feature in args.features.iter().flat_map(|f| f.split(',')).map(str::trim).filter(|f| !f.is_empty()) {
        match feature {
            "promql-experimental-functions" => options.parser.experimental_functions = true,
            "promql-duration-expr" => options.parser.duration_expressions = true,
            "promql-extended-range-selectors" => options.parser.extended_range_selectors = true,
            "promql-binop-fill-modifiers" => options.parser.fill_modifiers = true,
            "promql-delayed-name-removal" => options.delayed_name_removal = true,
            "use-start-timestamps" => options.start_timestamps = true,
            "type-and-unit-labels" => options.type_and_unit_labels = true,
            "promql-per-step-stats" => options.per_step_stats = true,
            // Always on; Thanos takes them too.
            "promql-negative-offset" | "promql-at-modifier" | "query-pushdown" => {}
            other => anyhow::bail!("--enable-feature={other}: there is no such feature"),
        }
    }
    Ok(options)
}
