//! The arbiter of a node: whose turn it is on each GPU that several shares want at the same moment.
//!
//! It decides by [`vgpu_core::compute::arbiter`]; here are the files around it. What shares say is read from `usage`
//! ([`seat`]), what they are told stands in `limits`, on a word of which their processes wait. Towards the node they
//! ring their bell ([`vgpu_share::bell`]) when something changes that cannot wait for the next look: the first launch
//! after a pause, a wait for the turn, the end of the work that was still in flight when the turn was over. While two
//! shares of a GPU want it the arbiter also looks by itself ([`vgpu_core::compute::tuning::WATCH`]); else it sleeps.
//!
//! | what goes wrong | what happens |
//! |---|---|
//! | the arbiter ends | it opens every turn; killed, its heartbeat ages, and after 50 ms tenants go by their buckets alone |
//! | it starts again | turns begin anew; who has charged how much stands with the shares |
//! | a process ends, by whatever | its slot's lock is free, and what it said counts no more; looked at every 5 ms |
//! | a tenant rings without end | it is listened to once in [`arbitration::LEAST_LOOK`] |
//! | a tenant writes nonsense to `usage` | its own turns suffer: whoever waits gets the GPU after its quantum and the patience |
//! | a share has files of the oldest version | nobody can tell it anything; its neighbours know how busy it is |
//!
//! One arbiter at a time: two would contradict each other. Who starts one sees to that.

pub mod arbitration;
pub mod clock;
pub mod seat;

pub use arbitration::{Arbitration, Member};
pub use clock::{Clock, Fds, Monotonic};
