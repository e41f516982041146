//! A lock for a few instructions: taking it is one exchange and letting it go a store.
//!
//! Who finds it taken spins for a moment, then lets others run, then sleeps, so that a thread of high priority never
//! keeps the holder from its processor.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SPINS: u32 = 64;
const YIELDS: u32 = 80;
const SLEEP: Duration = Duration::from_micros(20);

/// A value behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Spin<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached by the one who has taken the lock.
unsafe impl<T: Send> Sync for Spin<T> {}

/// Lets the lock go when dropped.
pub(crate) struct Held<'a, T>(&'a Spin<T>);

impl<T> Spin<T> {
    #[inline]
    pub(crate) fn lock(&self) -> Held<'_, T> {
        if self.taken.swap(true, Ordering::Acquire) {
            self.wait();
        }
        Held(self)
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) {
        for turn in 0u32.. {
            if !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire) {
                return;
            }
            match turn {
                ..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                _ => std::thread::sleep(SLEEP),
            }
        }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and `self` is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let sum = Spin::<u64>::default();
        std::thread::scope(|scope| {
            (0..8).for_each(|_| {
                scope.spawn(|| (0..10_000).for_each(|_| *sum.lock() += 1));
            });
        });
        assert_eq!(*sum.lock(), 80_000);
    }
}
