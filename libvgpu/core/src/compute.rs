//! Who may launch on a shared GPU, and what it costs: the unit is GPU nanoseconds.
//!
//! Every share has a [`bucket`] that is refilled at its `cores` percent and charged by time measured between events. Each
//! process has a [`gate`] that is asked before a launch: it bounds the work in flight by [`estimate`]s, lends a thread what
//! it may launch without asking, and gathers launches into [`epoch`]s, of which two events each tell the true length. When contexts take turns on a GPU such a pair
//! also holds the neighbours' slices, and a tenant that waits for each kernel gets less than it is owed whatever its
//! neighbour pays. So while two or more tenants want a GPU, an [`arbiter`] on the node lets one of them launch at a time:
//! its events are then its own. Alone, nobody asks anybody.
//!
//! | what goes wrong | what happens |
//! |---|---|
//! | a kernel outlasts its tenant's turn | after [`tuning::PATIENCE`] the next joins; both are charged by busy contexts |
//! | the arbiter stops | its heartbeat ages; after [`tuning::HEARTBEAT`] everybody goes by the bucket alone |
//! | a process dies | its bits in [`words::Tenant`] are cleared by whoever finds its slot's lock free; at most what it had in flight stays charged |
//! | a wake-up is lost | every wait is timed: [`tuning::RECHECK`] |
//!
//! There is no clock in here, no CUDA and no system call: times are arguments, in nanoseconds of one monotonic clock that
//! tenants and arbiter share. State that processes share lies in [`words`], wherever the caller has mapped it.

pub mod arbiter;
pub mod bucket;
pub mod epoch;
pub mod estimate;
pub mod gate;
pub mod tuning;
pub mod view;
pub mod words;

/// What `cores` means for a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// A cap: never more, even if the GPU is idle.
    #[default]
    Hard,
    /// A guarantee: as much while others want the GPU, and their idle time too.
    Elastic,
    /// Neither: what is left over.
    None,
}

/// Who goes first while several want the GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After all others.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Stops the others' launches as soon as it wants the GPU.
    High,
}

/// What a share is entitled to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Percent of GPU time, 1 to 100; 0: nothing reserved and no cap.
    pub cores: u32,
    /// What `cores` means.
    pub enforcement: Enforcement,
    /// Who goes first.
    pub priority: Priority,
}

impl Terms {
    /// Whether `cores` is a cap. All of the GPU is none.
    pub fn is_capped(self) -> bool {
        (1..100).contains(&self.cores) && self.enforcement == Enforcement::Hard
    }

    /// Percent that is promised.
    pub fn reserved(self) -> u32 {
        if self.enforcement == Enforcement::None { 0 } else { self.cores }
    }
}
