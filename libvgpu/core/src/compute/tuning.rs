//! Every constant of the controller, in nanoseconds unless it says otherwise, with the reason.
//!
//! Found by simulation over slices of 1 to 30 ms, switches of 50 to 500 us and hand-overs of 10 us to 1 ms. What is said
//! of error is in points of the GPU.

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Estimated work a process may have in flight. 1 to 16 ms differ by 0.2 points; it is what a waiter of higher priority
/// waits for at most, beside the kernel under way.
pub const FLIGHT: u64 = 4 * MS;
/// The same for a share whose GPU a share of higher priority uses.
pub const FLIGHT_BELOW: u64 = MS;
/// So little left in flight never holds a launch back (nor half of the bound, if that is less): the GPU would run dry
/// between two long kernels.
pub const FLIGHT_LOW: u64 = MS;

/// An epoch is closed at this estimate: long enough that two events cost nothing (0.7 us each), short enough that the
/// bucket knows soon. 100 us to 2 ms differ by 0.2 points.
pub const EPOCH: u64 = 500 * US;
/// An epoch is closed after this many launches, however short they are thought to be.
pub const EPOCH_LAUNCHES: u32 = 64;
/// An epoch is closed when nothing was launched for so long, or its pair would hold idle time.
pub const EPOCH_IDLE: u64 = 150 * US;
/// After so many measured launches a kind's estimate is trusted. Without it a function with two lengths, short at first
/// sight, once had 0.8 s of work in flight.
pub const TRIAL: u32 = 16;
/// Kinds a process remembers. A program with more (shapes that never come again) starts over: 6 MB are enough.
pub const KINDS: usize = 65_536;
/// Launches of a kind that are measured one by one after an epoch of it was lost, at first.
pub const WATCHED_MIN: u32 = 16;
/// The same once it keeps happening: one launch in so many is charged by estimate alone.
pub const WATCHED_MAX: u32 = 1_024;
/// Epochs of a kind that may be charged by estimate because the GPU had run dry when their loan ended; then as many
/// launches as [`WATCHED_MIN`] are measured one by one. So of a program whose kernels are shorter than the way to launch
/// them, one launch in 65 is measured.
pub const SKIPPED: u32 = 16;
/// An epoch with launches on loan that took longer than its estimate by one part in so many may hold time in which the
/// program launched nothing. Nothing is learnt from it, and its kind is watched.
pub const SLACK: u64 = 4;
/// Weight of a new measurement in an estimate, as one part in so many.
pub const LEARNING: u64 = 5;

/// What an idle share saves up. With 5 ms, synchronising tenants lose 1.3 to 8.5 points.
pub const SAVED_IDLE: i64 = 20 * MS as i64;
/// What a share saves up while it wants the GPU and others have it. With 20 ms, synchronising tenants lose 8 points.
pub const SAVED_WAITING: i64 = 250 * MS as i64;
/// Deepest debt of an elastic share that is alone: what it borrowed from nobody is not held against it.
pub const DEBT_ALONE: i64 = -10 * MS as i64;
/// Credit a share waits for once it had none, alone: less would be a wake-up per kernel.
pub const RESUME: i64 = 500 * US as i64;
/// The same while others want the GPU: a turn for less is not worth its hand-over.
pub const RESUME_CONTENDED: i64 = 2 * MS as i64;

/// Turns of all who want the GPU, together.
pub const ROUND: u64 = 40 * MS;
/// Shortest turn. Turns of 1 ms lose 8.7 % to hand-overs and switches, of 5 ms 2 %.
pub const TURN_MIN: u64 = 4 * MS;
/// Longest turn. 20 ms lose 0.5 %.
pub const TURN_MAX: u64 = 20 * MS;
/// A waiter whose virtual time is so far behind the holder's shortens the turn to [`TURN_MIN`].
pub const BEHIND: u64 = 5 * MS;
/// Who was idle for longer joins near the least virtual time of the others: idle time is not saved up for ever.
pub const AWAY: u64 = 5 * MS;
/// How long a kernel may outlast its turn before the next tenant joins. 2 ms costs 4.8 points beside synchronising
/// tenants; more than this leaves everybody at the mercy of long kernels.
pub const PATIENCE: u64 = 20 * MS;
/// How long a holder may be idle before it loses its turn: a launch that waits for the one before takes 10 to 30 us.
pub const GRACE: u64 = 200 * US;
/// The same for a holder whose gaps are mostly longer than [`LONG_GAP`]: it would lose the turn anyway.
pub const GRACE_SHORT: u64 = 50 * US;
/// See [`GRACE_SHORT`].
pub const LONG_GAP: u64 = 150 * US;
/// Least weight of a share, in thousandths of a percent, such as of one without a reservation: never nothing, or it would
/// starve for ever.
pub const LEAST_WEIGHT: u64 = 500;

/// How often finished epochs are looked for, alone.
pub const POLL: u64 = 250 * US;
/// The same while others want the GPU.
pub const POLL_CONTENDED: u64 = 100 * US;
/// The same by a tenant whose turn has ended and on which the next one waits.
pub const POLL_DRAINING: u64 = 40 * US;
/// How often the arbiter looks at the tenants by itself while somebody waits: a holder that goes idle does not say so.
pub const WATCH: u64 = 100 * US;
/// Longest wait of a tenant before it looks again: a lost wake-up or a dead neighbour costs this at most.
pub const RECHECK: u64 = 5 * MS;
/// Age of the arbiter's heartbeat at which tenants stop waiting for it.
pub const HEARTBEAT: u64 = 50 * MS;
/// How long an epoch may run past its estimate before what it has used so far is charged: a kernel that never ends
/// would otherwise never pay.
pub const OVERDUE: u64 = 50 * MS;
