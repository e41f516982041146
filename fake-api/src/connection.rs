//! A client's way to the server, and everything that can go wrong on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;

use crate::call::Call;
use crate::random::Random;
use crate::server::{FakeApi, router};
use crate::signal::{Listener, Signal};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It does not take; this HTTP status is the answer.
    Refuse(u16),
    /// It does not take, and there is never an answer.
    Hang,
    /// It takes, and there is never an answer.
    LoseAnswer,
    /// It takes after this time, whether or not anybody still waits; there is never an answer.
    TakeLate(Duration),
    /// It takes after this time, unless the client has given up by then.
    Slow(Duration),
}

/// What becomes of the events of watches.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// Longest time an event is held back; each kind's events keep their order.
    pub delay: Duration,
    /// Percent of events that come twice.
    pub duplicates: u64,
}

type Rule = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct State {
    rule: Option<Rule>,
    delivery: Delivery,
    random: Random,
    /// Writes that took.
    writes: Vec<Call>,
    dies_after: Option<usize>,
}

/// One client's connection.
#[derive(Clone)]
pub struct Connection {
    pub(crate) api: FakeApi,
    state: Arc<Mutex<State>>,
    dead: watch::Sender<bool>,
    cuts: Signal,
}

impl Connection {
    pub(crate) fn new(api: FakeApi) -> Self {
        let state = State {
            rule: None,
            delivery: Delivery::default(),
            random: Random::new(0),
            writes: Vec::new(),
            dies_after: None,
        };
        Self {
            api,
            state: Arc::new(Mutex::new(state)),
            dead: watch::Sender::new(false),
            cuts: Signal::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that talks through it.
    pub fn client(&self) -> Client {
        Client::new(router(self.clone()), "default")
    }

    /// Decides what becomes of each call; `None` lets it pass. Replaces the last rule.
    pub fn rule(&self, rule: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().rule = Some(Box::new(rule));
    }

    /// Lets every call pass again.
    pub fn no_rule(&self) {
        self.state().rule = None;
    }

    /// How watch events come from now on; the seed decides which are held back or doubled.
    pub fn deliver(&self, delivery: Delivery, seed: u64) {
        let mut state = self.state();
        state.delivery = delivery;
        state.random = Random::new(seed);
    }

    /// Ends every open watch.
    pub fn cut_watches(&self) {
        self.cuts.raise();
    }

    /// After this many writes took nothing is answered any more, the last of them included: the client's process dies.
    pub fn die_after(&self, writes: usize) {
        self.state().dies_after = Some(writes);
    }

    /// Returns when the client has died.
    pub async fn died(&self) {
        // The sender lives as long as this connection.
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// Writes that took, in their order.
    pub fn writes(&self) -> Vec<Call> {
        self.state().writes.clone()
    }

    /// Forgets the writes so far.
    pub fn forget_writes(&self) {
        self.state().writes.clear();
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    pub(crate) fn cuts(&self) -> Listener {
        self.cuts.listen()
    }

    pub(crate) fn fault(&self, call: &Call) -> Option<Fault> {
        // The rule may look at the connection: it is taken out while it runs.
        let mut rule = self.state().rule.take()?;
        let fault = rule(call);
        let mut state = self.state();
        if state.rule.is_none() {
            state.rule = Some(rule);
        }
        fault
    }

    /// How long the next event is held back, and how often it comes.
    pub(crate) fn next_delivery(&self) -> (Duration, usize) {
        let mut state = self.state();
        let delivery = state.delivery.clone();
        let delay =
            if delivery.delay.is_zero() { Duration::ZERO } else { state.random.pause(delivery.delay) };
        let twice = delivery.duplicates > 0 && state.random.chance(delivery.duplicates);
        (delay, 1 + usize::from(twice))
    }

    /// A write took. True if its answer still goes out.
    pub(crate) fn took(&self, call: &Call) -> bool {
        let mut state = self.state();
        state.writes.push(call.clone());
        if state.dies_after.is_some_and(|n| state.writes.len() >= n) {
            self.dead.send_replace(true);
        }
        !self.is_dead()
    }
}
