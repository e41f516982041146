//! Events around the epochs of one GPU in this process, and what they say.
//!
//! An event is recorded right before a launch or right behind one, by its thread, on its stream: at any other time the
//! stream may be gone or mean another one. So an epoch ends where the controller says so, or when a launch of its own
//! stream is held back. One that can end in neither way is *lost*: it stays charged by estimate, and the next launches of
//! its kind are measured one by one. That happens when the program lets the GPU run dry in the middle of an epoch or turns
//! to another stream.
//!
//! The rest of an open epoch is lent to the thread that launches ([`crate::credit`]). The epoch may take no more launches
//! while some of it is still out: then its end is recorded by whoever brings back the last of it, if that is in hand of its
//! stream, and epochs that ended later are taken in first.
//!
//! Times are the host's. The GPU's distance between two events is the driver's; where it lies on the host's clock follows
//! from the event before, and from the host having recorded the first and seen the last.

use std::collections::{HashMap, VecDeque};

use vgpu_core::compute::estimate::Key;
use vgpu_core::compute::gate::{self, Gate, Loan, Verdict};
use vgpu_share::Share;

use crate::credit::Credit;
use crate::event::{self, elapsed, relaxed};
use crate::launch::now;
use crate::state::Device;
use crate::{NOT_READY, SUCCESS, capture, real};

/// A launch takes no longer than this; what is more is the host doing something else.
const LONGEST_GAP: u64 = 20_000;

/// Where work is queued; work of one lane runs in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) context: usize,
    pub(crate) stream: usize,
    /// Of a per-thread stream.
    pub(crate) thread: usize,
}

/// How an epoch that takes no more launches stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its last launches are being made.
    Coming,
    /// Its end event is recorded.
    Ended,
    /// It has no end.
    Lost,
}

/// Events of an epoch.
#[derive(Debug)]
struct Pair {
    number: u64,
    /// Which share pays.
    index: usize,
    lane: Lane,
    start: usize,
    end: usize,
    /// When the first event was recorded.
    recorded: u64,
    /// Nanoseconds between the first event and the launch on an idle GPU, which are the host's and not the kernel's.
    gap: u64,
    /// Loans that are out, and the launch that ends it while that is being made.
    awaited: u32,
    /// Epochs of other lanes were in flight beside it.
    crowded: bool,
    state: State,
}

impl Pair {
    /// Records the end, in hand of a launch of its lane.
    fn record_end(&mut self) {
        self.state = if event::record(self.end, self.lane.stream) { State::Ended } else { State::Lost };
    }
}

/// Launches of an epoch that a thread has on loan.
#[derive(Debug)]
struct Lent {
    credit: &'static Credit,
    /// Of the epoch.
    number: u64,
    context: usize,
    loan: Loan,
    /// What was left of it when the poller last looked.
    seen: Option<u32>,
}

/// A launch that may be made.
#[derive(Debug)]
pub(crate) struct Admission {
    number: u64,
    /// When its epoch's first event was recorded, on an idle stream.
    began: Option<u64>,
    /// The end event comes right behind it.
    ends: bool,
}

impl Admission {
    /// Nothing is to be done once the launch is made.
    pub(crate) fn is_done(&self) -> bool {
        self.began.is_none() && !self.ends
    }
}

/// The last end event that was reached.
#[derive(Debug)]
struct Mark {
    context: usize,
    event: usize,
    time: u64,
}

/// Metering of one GPU in this process.
#[derive(Debug)]
pub(crate) struct Metering {
    /// By share.
    pub(crate) gates: Vec<Gate>,
    open: Option<Pair>,
    /// Oldest first.
    closed: VecDeque<Pair>,
    lent: Vec<Lent>,
    last: Option<Mark>,
    /// Events of a context that are free.
    events: HashMap<usize, Vec<usize>>,
    next: u64,
}

impl Device {
    /// What the controller sees of a share.
    pub(crate) fn stake(&self, index: usize) -> Option<gate::Share<'_>> {
        let share = self.shares.get(index)?;
        let terms = share.limits.read().terms();
        Some(gate::Share { terms, tenant: &share.usage.compute, lease: &share.limits.lease })
    }
}

impl Metering {
    pub(crate) fn new(shares: &[Share]) -> Self {
        Self {
            gates: shares.iter().map(|share| Gate::new(share.ledger.slot())).collect(),
            open: None,
            closed: VecDeque::new(),
            lent: Vec::new(),
            last: None,
            events: HashMap::new(),
            next: 0,
        }
    }

    /// Whether something is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.is_some() || !self.closed.is_empty()
    }

    pub(crate) fn ask(&mut self, device: &Device, now: u64, index: usize, key: &Key) -> Option<Verdict> {
        let share = device.stake(index)?;
        Some(self.gates.get_mut(index)?.ask(now, &share, key))
    }

    /// Ends the open epoch if a launch cannot be part of it: it is of another lane or share, or the GPU has run dry since.
    pub(crate) fn fit(&mut self, device: &Device, now: u64, lane: Lane, index: usize) {
        let Some(open) = &self.open else { return };
        let is_same = open.lane == lane && open.index == index;
        let may_be_dry = self.gates.get(open.index).is_some_and(|gate| gate.is_done(now));
        if !is_same {
            // What another thread has on loan it brings back in hand of its own lane.
            let state = if open.awaited > 0 { State::Ended } else { State::Lost };
            self.close(device, state);
        } else if may_be_dry && event::is_idle(lane.stream) {
            self.close(device, State::Lost);
        }
    }

    /// Ends the open epoch with an event, on the lane of the launch about to be made.
    pub(crate) fn end_open(&mut self, device: &Device) {
        self.close(device, State::Ended);
    }

    /// The open epoch takes no more launches.
    fn close(&mut self, device: &Device, state: State) {
        let Some(open) = self.open.take() else { return };
        if let (Some(share), Some(gate)) = (device.stake(open.index), self.gates.get_mut(open.index)) {
            gate.close(&share);
        }
        self.push(open, state);
    }

    /// Its gate has closed it. `Ended`: it is to end here, in hand of its lane, or with what is still awaited.
    fn push(&mut self, mut pair: Pair, state: State) {
        match state {
            _ if pair.start == 0 => pair.state = State::Lost,
            State::Ended if pair.awaited == 0 => pair.record_end(),
            State::Ended => pair.state = State::Coming,
            other => pair.state = other,
        }
        self.closed.push_back(pair);
    }

    /// A launch that was granted: what is to be done behind it, and whether it is the first in flight.
    pub(crate) fn begin(
        &mut self,
        device: &Device,
        now: u64,
        index: usize,
        lane: Lane,
        key: &Key,
    ) -> Option<(Admission, bool)> {
        let share = device.stake(index)?;
        let was_idle = !self.is_busy();
        let plan = self.gates.get_mut(index)?.plan(now, &share, key);
        if plan.end
            && let Some(open) = self.open.take()
        {
            self.push(open, State::Ended);
        }
        let began = if plan.start { self.start(index, lane) } else { None };
        let number = self.open.as_ref()?.number;
        let ends = self.gates.get_mut(index)?.launched(now, &share, key);
        if !ends {
            self.lend(now, &share, device.id(), lane, key);
        } else if let Some(mut open) = self.open.take() {
            open.awaited = open.awaited.saturating_add(1);
            self.push(open, State::Coming);
        }
        Some((Admission { number, began, ends }, was_idle))
    }

    /// Lends the calling thread what it may launch beside this.
    fn lend(&mut self, now: u64, share: &gate::Share<'_>, lender: usize, lane: Lane, key: &Key) {
        let Some(credit) = Credit::own().filter(|_| !capture::is_under_way()) else { return };
        let Some(open) = &mut self.open else { return };
        let Some(loan) = self.gates.get_mut(open.index).and_then(|gate| gate.lend(now, share, key)) else {
            return;
        };
        open.awaited = open.awaited.saturating_add(1);
        credit.fill(key, lane.stream, loan, share.lease.word(), lender);
        self.lent.push(Lent { credit, number: open.number, context: lane.context, loan, seen: None });
    }

    /// Takes back what the calling thread has left, in hand of a launch of that lane.
    pub(crate) fn take_back(&mut self, device: &Device, lane: Lane) {
        let own = Credit::own();
        let is_own = |lent: &Lent| own.is_some_and(|credit| std::ptr::eq(credit, lent.credit));
        if let Some(at) = self.lent.iter().position(is_own) {
            let lent = self.lent.swap_remove(at);
            let unused = lent.credit.empty();
            self.end_loan(device, &lent, unused, Some(lane));
        }
    }

    /// Takes back all that is lent.
    pub(crate) fn take_back_all(&mut self, device: &Device) {
        self.revoke(device, |_| true);
    }

    fn revoke(&mut self, device: &Device, which: impl FnMut(&mut Lent) -> bool) {
        let revoked: Vec<Lent> = self.lent.extract_if(.., which).collect();
        for lent in revoked {
            let unused = lent.credit.revoke();
            self.end_loan(device, &lent, unused, None);
        }
    }

    /// A loan has ended, in hand of a launch of some lane or of none.
    fn end_loan(&mut self, device: &Device, lent: &Lent, unused: u32, lane: Option<Lane>) {
        let at = self.closed.iter().position(|pair| pair.number == lent.number);
        let place = at.map(|at| self.place(at));
        let pair = match at {
            Some(at) => self.closed.get_mut(at),
            None => self.open.as_mut().filter(|open| open.number == lent.number),
        };
        let Some(pair) = pair else { return };
        pair.awaited = pair.awaited.saturating_sub(1);
        if let (Some(share), Some(gate)) = (device.stake(pair.index), self.gates.get_mut(pair.index)) {
            gate.take_back(now(), place, &share, lent.loan, unused);
        }
        if at.is_some() && pair.awaited == 0 && pair.state == State::Coming {
            match lane {
                Some(lane) if lane == pair.lane => pair.record_end(),
                _ => pair.state = State::Lost,
            }
        }
    }

    /// Which of its gate's epochs in flight a closed one is.
    fn place(&self, at: usize) -> usize {
        let index = self.closed.get(at).map(|pair| pair.index);
        self.closed.iter().take(at).filter(|pair| Some(pair.index) == index).count()
    }

    /// Opens an epoch; gives when its first event was recorded if the stream was idle. If there are no events to be had
    /// the epoch will be lost.
    fn start(&mut self, index: usize, lane: Lane) -> Option<u64> {
        // On a busy stream the first event waits for what is before it and the pair holds the kernels alone. On an idle one
        // it is reached at once, and the pair also holds the way from one call to the next.
        let is_idle = !self.is_busy() && event::is_idle(lane.stream);
        let recorded = now();
        let events = self.take_events(lane.context).filter(|(start, _)| event::record(*start, lane.stream));
        if events.is_none() {
            // Those that are left may be of a context of the same name that has gone.
            self.events.remove(&lane.context);
        }
        let (start, end) = events.unwrap_or((0, 0));
        self.next = self.next.wrapping_add(1);
        let (number, state) = (self.next, State::Coming);
        let mut crowded = false;
        for beside in self.closed.iter_mut().filter(|pair| pair.lane != lane) {
            (beside.crowded, crowded) = (true, true);
        }
        self.open =
            Some(Pair { number, index, lane, start, end, recorded, gap: 0, awaited: 0, crowded, state });
        is_idle.then(now)
    }

    /// The launch was made, or failed.
    pub(crate) fn made(&mut self, device: &Device, now: u64, admission: &Admission, succeeded: bool) {
        let gap = admission.began.map_or(0, |began| now.saturating_sub(began).min(LONGEST_GAP));
        let is_it = |pair: &&mut Pair| pair.number == admission.number;
        if let Some(pair) = self.open.as_mut().filter(|pair| pair.number == admission.number) {
            pair.gap = pair.gap.max(gap);
            if !succeeded {
                self.close(device, State::Lost);
            }
        } else if let Some(pair) = self.closed.iter_mut().rev().find(is_it) {
            pair.gap = pair.gap.max(gap);
            if admission.ends {
                pair.awaited = pair.awaited.saturating_sub(1);
                if !succeeded {
                    pair.state = State::Lost;
                } else if pair.state == State::Coming && pair.awaited == 0 {
                    pair.record_end();
                }
            }
        }
    }

    fn take_events(&mut self, context: usize) -> Option<(usize, usize)> {
        let free = self.events.entry(context).or_default();
        while free.len() < 2 {
            free.push(event::create()?);
        }
        Some((free.pop()?, free.pop()?))
    }

    fn free(&mut self, context: usize, event: usize) {
        if event != 0 {
            self.events.entry(context).or_default().push(event);
        }
    }

    /// Takes in every epoch that has ended.
    pub(crate) fn collect(&mut self, device: &Device, now: u64) {
        let mut at = 0;
        while let Some(next) = self.closed.get(at) {
            let reached = match next.state {
                _ if next.awaited > 0 => {
                    at += 1;
                    continue;
                }
                State::Coming => break,
                State::Lost => Some(None),
                State::Ended => relaxed(|| self.measured(next, now)),
            };
            let Some(span) = reached else { break };
            let place = self.place(at);
            let Some(pair) = self.closed.remove(at) else { break };
            self.settle(device, now, pair, place, span);
        }
        for (index, gate) in self.gates.iter_mut().enumerate() {
            if let Some(share) = device.stake(index) {
                gate.settle(now, &share);
            }
        }
    }

    /// When an epoch began and ended. `None`: it has not ended; `Some(None)`: nobody will know, its context has gone.
    fn measured(&self, pair: &Pair, now: u64) -> Option<Option<(u64, u64)>> {
        // SAFETY: the event was recorded and not destroyed.
        let reached = unsafe { real::cuEventQuery(pair.end) };
        if reached == NOT_READY {
            return None;
        }
        let took = elapsed(pair.start, pair.end).filter(|took| reached == SUCCESS && *took >= 0);
        Some(took.map(|took| {
            let took = took.unsigned_abs().saturating_sub(pair.gap).max(1);
            let mark = self.last.as_ref().filter(|mark| mark.context == pair.lane.context);
            let after = mark.and_then(|m| Some(m.time.saturating_add_signed(elapsed(m.event, pair.start)?)));
            let began = after.map_or(pair.recorded, |after| after.max(pair.recorded));
            let end = began.saturating_add(took).min(now);
            (end.saturating_sub(took), end)
        }))
    }

    fn settle(&mut self, device: &Device, now: u64, pair: Pair, place: usize, span: Option<(u64, u64)>) {
        let Pair { index, lane, start, end, crowded, state, .. } = pair;
        if let (Some(share), Some(gate)) = (device.stake(index), self.gates.get_mut(index)) {
            match span {
                Some((began, ended)) => gate.harvest_at(place, now, &share, (began, ended), crowded),
                None => gate.lose_at(place, now, &share),
            }
        }
        match span {
            Some((_, time)) => {
                self.free(lane.context, start);
                if let Some(old) = self.last.replace(Mark { context: lane.context, event: end, time }) {
                    self.free(old.context, old.event);
                }
            }
            None if state == State::Ended => {
                // The context is gone, and its events with it.
                self.events.remove(&lane.context);
                self.last = None;
            }
            None => [start, end].into_iter().for_each(|event| self.free(lane.context, event)),
        }
    }

    /// What no launch looks after: an epoch the program leaves open is given up once it should have ended.
    pub(crate) fn look_after(&mut self, device: &Device, now: u64) {
        // A thread that has made no launch since the last look may never make another one.
        self.revoke(device, |lent| {
            let left = lent.credit.unused();
            lent.seen.replace(left) == Some(left)
        });
        let is_left = |pair: &Pair| {
            self.gates.get(pair.index).is_some_and(|gate| gate.is_done(now) && gate.is_quiet(now))
        };
        if self.open.as_ref().is_some_and(is_left) {
            self.close(device, State::Lost);
        }
        self.collect(device, now);
    }

    /// A context is about to go.
    pub(crate) fn end_context(&mut self, device: &Device, now: u64, context: usize) {
        self.revoke(device, |lent| lent.context == context);
        if self.open.as_ref().is_some_and(|pair| pair.lane.context == context) {
            self.close(device, State::Lost);
        }
        self.collect(device, now);
        for pair in self.closed.iter_mut().filter(|pair| pair.lane.context == context) {
            pair.state = State::Lost;
        }
        self.collect(device, now);
        let mut events = self.events.remove(&context).unwrap_or_default();
        if let Some(mark) = self.last.take_if(|mark| mark.context == context) {
            events.push(mark.event);
        }
        for event in events {
            // SAFETY: an event of this process that nobody uses.
            unsafe { real::event_destroy(event) };
        }
    }
}
