//! Turns: waiting for the share's own, and telling the node's arbiter what it has to know.
//!
//! Nobody here waits without end, and nobody waits for an arbiter whose heartbeat has stopped: see
//! [`vgpu_core::compute::words::Lease::turn`].

use std::time::Duration;

use vgpu_core::compute::gate::Gate;
use vgpu_core::compute::words::{Lease, Turn};

use crate::launch::now;
use crate::metering::Metering;
use crate::state::Device;

/// Waits until a turn that was denied may have come, or until that moment.
pub(crate) fn wait(lease: &Lease, until: u64) {
    let word = lease.word();
    let seen = word.load(std::sync::atomic::Ordering::Acquire);
    let now = now();
    // It may have come since; from here on a change of the word ends the wait.
    if lease.turn(now) != Turn::Denied || until <= now {
        return;
    }
    let left = Duration::from_nanos(until.saturating_sub(now));
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(0),
        tv_nsec: left.subsec_nanos().into(),
    };
    // SAFETY: an aligned word of a mapping that is never unmapped, which the kernel only reads; a pointer to a local. The
    // arbiter wakes through another mapping of the page, so that the futex is a shared one.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr() as usize,
            libc::FUTEX_WAIT as usize,
            seen as usize,
            (&raw const time) as usize,
            0usize,
            0usize,
        )
    };
}

impl Device {
    /// Whether launches are held back and measured: under a cap, and where an arbiter looks after the GPU. Several shares
    /// of one GPU add up, so one that is neither lifts it.
    pub(crate) fn is_metered(&self) -> bool {
        !self.shares.is_empty()
            && self
                .shares
                .iter()
                .all(|share| share.limits.lease.is_served() || share.limits.read().terms().is_capped())
    }

    /// Which share pays: one that may launch, without a cap if there is one, with the most credit.
    pub(crate) fn purse(&self, now: u64) -> Option<usize> {
        match self.shares.len() {
            1 => Some(0),
            count => (0..count).max_by_key(|index| {
                self.stake(*index).map(|share| {
                    let may = share.lease.turn(now) != Turn::Denied;
                    (may, !share.terms.is_capped(), share.tenant.balance(now, share.terms, false))
                })
            }),
        }
    }
}

impl Metering {
    /// Tells the arbiter of each share what has changed.
    pub(crate) fn ring(&mut self, device: &Device) {
        for (gate, share) in self.gates.iter_mut().zip(&device.shares) {
            if gate.take_ring() {
                share.ring();
            }
        }
    }

    /// One share pays: the process waits for no other's turn.
    pub(crate) fn withdraw_others(&mut self, device: &Device, index: usize) {
        for (other, gate) in self.gates.iter_mut().enumerate().filter(|(other, _)| *other != index) {
            if let Some(share) = device.stake(other) {
                gate.withdraw(&share);
            }
        }
    }

    /// How soon somebody waits for what is in flight to be taken in; `None`: nobody but this process.
    pub(crate) fn poll_after(&self, device: &Device, now: u64) -> Option<Duration> {
        let soon = |(index, gate): (usize, &Gate)| {
            let share = device.stake(index)?;
            let is_awaited = !gate.is_empty() && share.lease.turn(now) != Turn::Open;
            is_awaited.then(|| Duration::from_nanos(gate.poll_after(now, &share)))
        };
        self.gates.iter().enumerate().filter_map(soon).min()
    }
}
