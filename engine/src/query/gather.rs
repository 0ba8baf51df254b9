//! One request to all endpoints that offer a service other than the StoreAPI: rules, targets, metadata, exemplars,
//! statistics. Answers are small and unordered, so each is taken whole, within a deadline and the request's memory.

use super::buffers::{Call, Grant};
use super::fanout::{Failed, Fanout, Targets, Terms, said_by};
use super::hedge;
use super::metered::Metered;
use super::store::{Offer, Question, Store, bounded};
use super::warning::{self, Warning};
use crate::server::client;
use crate::server::grpc_metrics::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

/// Most warnings that are taken from one endpoint.
const MAX_SAID: usize = 100;

/// What a message of an answer carries.
pub(super) enum Part<T> {
    /// A piece of the answer.
    Data(T),
    /// The endpoint lacks something.
    Warning(String),
    /// Nothing that we know.
    Nothing,
}

/// A message of an answer.
pub(super) trait Message: prost::Message + Default + 'static {
    /// What it carries.
    type Data: Send + 'static;
    /// Takes it apart.
    fn part(self) -> Part<Self::Data>;
}

/// One endpoint that is asked.
pub(super) struct Asking {
    /// The endpoint.
    pub(super) store: Arc<Store>,
    timeout: Duration,
    memory: Arc<Call>,
    terms: Terms,
}

impl Asking {
    /// The channel to it.
    pub(super) fn channel(&self) -> Metered {
        self.store.channel(&self.memory)
    }

    /// A request with what the endpoint wants to see beside its body.
    pub(super) fn request<T>(&self, body: T) -> tonic::Request<T> {
        self.store.request(body, self.timeout)
    }

    /// Reads an answer to its end.
    pub(super) async fn drain<M: Message>(&self, mut stream: Streaming<M>) -> Result<Said<M::Data>, Status> {
        let mut said = Said::default();
        loop {
            self.memory.need();
            let Some(message) = stream.message().await? else { return Ok(said) };
            self.terms.budget.take(message.encoded_len()).map_err(|e| Status::resource_exhausted(e.0))?;
            said.held.extend(self.memory.received());
            match message.part() {
                Part::Data(data) => said.data.push(data),
                Part::Warning(w) if said.warnings.len() < MAX_SAID => said.warnings.push(bounded(w)),
                Part::Warning(_) | Part::Nothing => {}
            }
        }
    }
}

/// What one endpoint has answered.
pub(super) struct Said<T> {
    data: Vec<T>,
    warnings: Vec<String>,
    held: Vec<Grant>,
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self { data: Vec::new(), warnings: Vec::new(), held: Vec::new() }
    }
}

/// What all have answered, in a stable order of endpoints.
pub(super) struct Gathered<T> {
    /// The pieces, each with the endpoint that sent it.
    pub(super) found: Vec<(Arc<Store>, T)>,
    /// What is missing.
    pub(super) warnings: Vec<Warning>,
    /// The memory of `found`.
    _held: Vec<Grant>,
}

/// A call to one endpoint.
pub(super) trait Ask<T>: Fn(Arc<Asking>) -> Self::Answer + Clone + Send + Sync + 'static {
    /// Its end.
    type Answer: Future<Output = Result<Said<T>, Status>> + Send;
}

impl<T, F, A> Ask<T> for F
where
    F: Fn(Arc<Asking>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Said<T>, Status>> + Send,
{
    type Answer = A;
}

impl Fanout {
    /// Asks all endpoints that have `offer`, by `ask`.
    pub(super) async fn gather<T: Send + 'static>(
        &self,
        offer: Offer,
        method: Method,
        terms: &Terms,
        ask: impl Ask<T>,
    ) -> Result<Gathered<T>, Failed> {
        let Targets { stores, mut warnings, mut failed } = self.offering(&Question::all(offer), terms)?;
        // Dropped with this future: then all calls end.
        let mut calls = JoinSet::new();
        for (index, places) in stores.into_iter().enumerate() {
            let (me, ask, terms) = (self.clone(), ask.clone(), terms.clone());
            calls.spawn(async move {
                let delay = me.hedge_delay(&terms, &places);
                let one = |_, store| me.gather_one(method, &terms, store, &ask);
                let answer = hedge::first_of(&places, delay, &me.hedges, || false, one).await;
                (index, places, answer)
            });
        }
        let mut answers = Vec::new();
        while let Some(ended) = calls.join_next().await {
            answers.push(ended.map_err(|e| Failed(format!("a call to an endpoint ended abnormally: {e}")))?);
        }
        answers.sort_by_key(|(index, ..)| *index);
        let (mut found, mut held) = (Vec::new(), Vec::new());
        for (_, places, answer) in answers {
            let (told, strict) = match answer {
                Ok((at, said)) => {
                    let Some(store) = places.get(at) else { continue };
                    found.extend(said.data.into_iter().map(|data| (Arc::clone(store), data)));
                    held.extend(said.held);
                    let told = said.warnings.into_iter().map(|w| Warning::of_store(&store.name(), &w, None));
                    (told.collect(), false)
                }
                // What an older part does not have, it does not lack.
                Err(all) if all.iter().all(|(code, _)| *code == Code::Unimplemented) => (Vec::new(), false),
                Err(all) => {
                    let Some(store) = places.first() else { continue };
                    let reasons: Vec<(String, String)> = all.into_iter().map(|(_, reason)| reason).collect();
                    let lost = Warning::no_answer(&store.name(), &bounded(said_by(&reasons)), None);
                    (vec![lost], store.source().strict)
                }
            };
            let said = if strict || !terms.partial { &mut failed } else { &mut warnings };
            told.into_iter().for_each(|w| warning::push(said, w));
        }
        if !failed.is_empty() {
            return Err(Failed::of(failed));
        }
        Ok(Gathered { found, warnings, _held: held })
    }

    async fn gather_one<T: Send + 'static>(
        &self,
        method: Method,
        terms: &Terms,
        store: &Arc<Store>,
        ask: &impl Ask<T>,
    ) -> Result<Said<T>, (Code, (String, String))> {
        let counted = self.count(method);
        let timeout = self.deadlines(terms, store).frame;
        let memory = Call::needed(&terms.buffers);
        let asking = Arc::new(Asking { store: Arc::clone(store), timeout, memory, terms: terms.clone() });
        let call = client::retrying(|| ask(Arc::clone(&asking)));
        let answer = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(status)) => Err((status.code(), store.explain(&status))),
            Err(_) => Err((Code::DeadlineExceeded, format!("no answer within {timeout:?}"))),
        };
        counted.ended(answer.as_ref().map_or_else(|(code, _)| *code, |_| Code::Ok));
        answer.map_err(|(code, reason)| (code, (store.place.address.clone(), reason)))
    }
}

/// A method of a service, as the metrics name it.
pub(super) fn method(grpc_service: &'static str, grpc_method: &'static str) -> Method {
    Method { grpc_type: "server_stream", grpc_service, grpc_method }
}
