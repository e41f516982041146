//! The atomics all of it is made of: std's, or those of a scheduler that tries interleavings (`libvgpu/interleavings`).
//!
//! Under the scheduler a process can also be killed: every access to shared memory is a step it may not live to make.

#[cfg(not(feature = "interleavings"))]
mod chosen {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub use std::thread::{sleep, yield_now};
}

#[cfg(feature = "interleavings")]
mod chosen {
    use std::cell::Cell;
    use std::panic::resume_unwind;

    pub use shuttle::hint::spin_loop;
    use shuttle::sync::atomic;
    pub use shuttle::sync::atomic::{AtomicBool, Ordering, fence};
    pub use shuttle::thread::{sleep, yield_now};

    shuttle::thread_local! {
        /// Steps the thread has left to live.
        static LEFT: Cell<Option<u32>> = Cell::new(None);
    }

    /// What a killed thread unwinds with.
    #[derive(Debug)]
    pub struct Killed;

    /// Kills the calling thread, which is a process of its own, before it makes one more than so many steps.
    pub fn kill_after(steps: u32) {
        LEFT.with(|left| left.set(Some(steps)));
    }

    fn step() {
        LEFT.with(|left| match left.get() {
            None => {}
            Some(0) => {
                left.set(None);
                resume_unwind(Box::new(Killed));
            }
            Some(more) => left.set(Some(more.saturating_sub(1))),
        });
    }

    macro_rules! words {
        ($($name:ident $value:ty;)*) => {$(
            /// A word of shared memory.
            #[derive(Debug, Default)]
            pub struct $name(atomic::$name);

            impl $name {
                /// As std's.
                pub fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                /// As std's.
                pub fn load(&self, order: Ordering) -> $value {
                    step();
                    self.0.load(order)
                }

                /// As std's.
                pub fn store(&self, value: $value, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }

                /// As std's.
                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.swap(value, order)
                }

                /// As std's.
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_add(value, order)
                }

                /// As std's.
                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_or(value, order)
                }

                /// As std's.
                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_and(value, order)
                }

                /// As std's.
                ///
                /// # Errors
                /// As std's.
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    step();
                    self.0.compare_exchange(current, new, success, failure)
                }

                /// As std's.
                ///
                /// # Errors
                /// As std's.
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    change: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    step();
                    self.0.fetch_update(set, fetch, change)
                }
            }
        )*};
    }

    words! {
        AtomicI64 i64;
        AtomicU32 u32;
        AtomicU64 u64;
        AtomicUsize usize;
    }
}

pub use chosen::*;
