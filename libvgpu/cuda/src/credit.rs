//! What a thread may launch without asking: so many launches of one kind in one stream.
//!
//! They are lent by [`vgpu_core::compute::gate::Gate::lend`] and charged when they are lent, so that a launch like the one
//! before reads and writes one cache line, which is its thread's alone. A thread asks again when they are used up, when it
//! launches something else, when it is another share's turn, and after calls by which the GPU may have run dry, its context
//! may have changed or a capture begun ([`put_aside`]). What it does not use is given back ([`crate::metering`]).
//!
//! Places are found by the thread pointer, which differs between living threads: nothing has to be initialised, and
//! nothing to be freed when a thread ends. A thread whose place is another's asks every time. What is lent to a thread that
//! launches nothing is taken back by the poller. A forked child starts without any.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use vgpu_core::compute::estimate::Key;
use vgpu_core::compute::gate::Loan;
use vgpu_core::places;

/// Threads that may have credit at once.
pub(crate) const PLACES: usize = 1 << PLACE_BITS;
pub(crate) const PLACE_BITS: u32 = 10;

/// A thread's credit. The first 64 bytes are what a launch looks at.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Credit {
    /// The thread pointer; 0: nobody's.
    pub(crate) owner: AtomicUsize,
    /// Launches.
    pub(crate) left: AtomicU32,
    pub(crate) turn: AtomicU32,
    pub(crate) function: AtomicUsize,
    pub(crate) stream: AtomicUsize,
    pub(crate) grid: [AtomicU32; 3],
    pub(crate) block: [AtomicU32; 3],
    /// The word that has to say [`Credit::turn`].
    pub(crate) word: AtomicPtr<AtomicU32>,
    /// Launches that were left when the thread put them aside.
    aside: AtomicU32,
    /// [`crate::state::Device::id`] of the GPU it is for; 0: nothing is lent.
    lender: AtomicUsize,
}

const _: () = assert!(std::mem::offset_of!(Credit, aside) == 64);

pub(crate) static CREDITS: [Credit; PLACES] = [const { Credit::none() }; PLACES];

impl Credit {
    const fn none() -> Self {
        Self {
            owner: AtomicUsize::new(0),
            left: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            function: AtomicUsize::new(0),
            stream: AtomicUsize::new(0),
            grid: [const { AtomicU32::new(0) }; 3],
            block: [const { AtomicU32::new(0) }; 3],
            word: AtomicPtr::new(std::ptr::null_mut()),
            aside: AtomicU32::new(0),
            lender: AtomicUsize::new(0),
        }
    }

    /// Launches that were lent and not made.
    pub(crate) fn unused(&self) -> u32 {
        self.left.load(Ordering::Relaxed).saturating_add(self.aside.load(Ordering::Relaxed))
    }

    /// The owner's place, made its own if it is nobody's.
    pub(crate) fn own() -> Option<&'static Self> {
        let thread = thread();
        let credit = CREDITS.get(place(thread))?;
        match credit.owner.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some(credit),
            Err(owner) => (owner == thread).then_some(credit),
        }
    }

    /// Lends launches to the owner, which calls this and has none. `word` stays mapped.
    pub(crate) fn fill(&self, key: &Key, stream: usize, loan: Loan, word: &AtomicU32, lender: usize) {
        self.function.store(key.function, Ordering::Relaxed);
        self.stream.store(stream, Ordering::Relaxed);
        let shape = self.grid.iter().zip(key.grid).chain(self.block.iter().zip(key.block));
        shape.for_each(|(to, value)| to.store(value, Ordering::Relaxed));
        self.word.store(std::ptr::from_ref(word).cast_mut(), Ordering::Relaxed);
        self.turn.store(loan.turn, Ordering::Relaxed);
        self.lender.store(lender, Ordering::Relaxed);
        self.aside.store(0, Ordering::Relaxed);
        self.left.store(loan.launches, Ordering::Relaxed);
    }

    /// Which GPU the owner has something on loan for, by [`crate::state::Device::id`].
    pub(crate) fn lender(&self) -> Option<usize> {
        Some(self.lender.load(Ordering::Relaxed)).filter(|lender| *lender != 0)
    }

    /// Takes what is left from the owner, which calls this.
    pub(crate) fn empty(&self) -> u32 {
        let unused = self.unused();
        self.left.store(0, Ordering::Relaxed);
        self.aside.store(0, Ordering::Relaxed);
        self.lender.store(0, Ordering::Relaxed);
        unused
    }

    /// Takes what is left from an owner that has not launched for a while. Should it be about to, one launch escapes.
    pub(crate) fn revoke(&self) -> u32 {
        self.owner.swap(0, Ordering::SeqCst);
        self.empty()
    }
}

/// Tells living threads apart.
#[inline(always)]
pub(crate) fn thread() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let pointer: usize;
        // SAFETY: the word at fs:0 is the thread pointer itself, by the ABI for thread-local storage.
        unsafe {
            std::arch::asm!(
                "mov {}, qword ptr fs:[0]",
                out(reg) pointer,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(target_arch = "aarch64")]
    {
        let pointer: usize;
        // SAFETY: reads the register that holds the thread pointer.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(pure, nomem, nostack, preserves_flags));
        }
        pointer
    }
}

/// Its place here.
#[inline(always)]
pub(crate) const fn place(thread: usize) -> usize {
    places::place(thread, PLACE_BITS)
}

/// Takes one launch from this thread's credit, if it has any for this.
#[inline(always)]
pub(crate) fn spend(function: usize, grid: [u32; 3], block: [u32; 3], stream: usize) -> bool {
    let thread = thread();
    let Some(credit) = CREDITS.get(place(thread)) else { return false };
    if credit.owner.load(Ordering::Relaxed) != thread {
        return false;
    }
    let left = credit.left.load(Ordering::Relaxed);
    let [x, y, z] = &credit.grid;
    let [u, v, w] = &credit.block;
    if left == 0
        || credit.function.load(Ordering::Relaxed) != function
        || credit.stream.load(Ordering::Relaxed) != stream
        || [x, y, z].map(|n| n.load(Ordering::Relaxed)) != grid
        || [u, v, w].map(|n| n.load(Ordering::Relaxed)) != block
    {
        return false;
    }
    // SAFETY: there is credit, so `fill` has put a word there that stays mapped.
    let turn = unsafe { &*credit.word.load(Ordering::Relaxed) }.load(Ordering::Relaxed);
    if turn != credit.turn.load(Ordering::Relaxed) {
        return false;
    }
    credit.left.store(left - 1, Ordering::Relaxed);
    true
}

/// The body of a naked function with the signature of cuLaunchKernel: [`spend`] and a jump to the driver's function, whose
/// address is in the static `$real`, or a jump to `$ask` without credit. `$default` is the stream
/// that 0 means. It touches no register that holds an argument and leaves the stack as it is.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($real:path, $ask:path, $default:expr) => {
        std::arch::naked_asm!(
            "mov r11, qword ptr fs:[0]",
            "imul eax, r11d, {factor}",
            "shr eax, {shift}",
            "and eax, {mask}",
            "lea r10, [rip + {credits}]",
            "add r10, rax",
            "cmp r11, qword ptr [r10 + {owner}]",
            "jne 3f",
            "cmp rdi, qword ptr [r10 + {function}]",
            "jne 3f",
            "cmp esi, dword ptr [r10 + {grid}]",
            "jne 3f",
            "cmp edx, dword ptr [r10 + {grid} + 4]",
            "jne 3f",
            "cmp ecx, dword ptr [r10 + {grid} + 8]",
            "jne 3f",
            "cmp r8d, dword ptr [r10 + {block}]",
            "jne 3f",
            "cmp r9d, dword ptr [r10 + {block} + 4]",
            "jne 3f",
            "mov r11, qword ptr [rsp + 24]",
            ".if {default}",
            "test r11, r11",
            "jne 2f",
            "mov r11d, {default}",
            "2:",
            ".endif",
            "mov eax, dword ptr [rsp + 8]",
            "xor eax, dword ptr [r10 + {block} + 8]",
            "xor r11, qword ptr [r10 + {stream}]",
            "or rax, r11",
            "jne 3f",
            "mov r11d, dword ptr [r10 + {left}]",
            "sub r11d, 1",
            "jb 3f",
            "mov rax, qword ptr [r10 + {word}]",
            "mov eax, dword ptr [rax]",
            "cmp eax, dword ptr [r10 + {turn}]",
            "jne 3f",
            "mov dword ptr [r10 + {left}], r11d",
            "jmp qword ptr [rip + {real}]",
            "3:",
            "jmp {ask}",
            factor = const ::vgpu_core::places::FACTOR as i32,
            shift = const 32 - $crate::credit::PLACE_BITS - size_of::<$crate::credit::Credit>().trailing_zeros(),
            mask = const ($crate::credit::PLACES - 1) * size_of::<$crate::credit::Credit>(),
            credits = sym $crate::credit::CREDITS,
            owner = const std::mem::offset_of!($crate::credit::Credit, owner),
            left = const std::mem::offset_of!($crate::credit::Credit, left),
            function = const std::mem::offset_of!($crate::credit::Credit, function),
            stream = const std::mem::offset_of!($crate::credit::Credit, stream),
            grid = const std::mem::offset_of!($crate::credit::Credit, grid),
            block = const std::mem::offset_of!($crate::credit::Credit, block),
            word = const std::mem::offset_of!($crate::credit::Credit, word),
            turn = const std::mem::offset_of!($crate::credit::Credit, turn),
            default = const $default,
            real = sym $real,
            ask = sym $ask,
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use kernel;

/// This thread asks before its next launch. What it has left it gives back then.
#[inline]
pub(crate) fn put_aside() {
    let thread = thread();
    let Some(credit) = CREDITS.get(place(thread)) else { return };
    if credit.owner.load(Ordering::Relaxed) != thread {
        return;
    }
    let left = credit.left.load(Ordering::Relaxed);
    if left != 0 {
        let before = credit.aside.load(Ordering::Relaxed);
        credit.aside.store(before.saturating_add(left), Ordering::Relaxed);
        credit.left.store(0, Ordering::Relaxed);
    }
}

/// In a forked child: it owes nothing.
pub(crate) fn forget_all() {
    for credit in CREDITS.iter().filter(|c| c.owner.load(Ordering::Relaxed) != 0) {
        credit.revoke();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WORD: AtomicU32 = AtomicU32::new(4);
    const GRID: [u32; 3] = [7, 2, 3];
    const BLOCK: [u32; 3] = [32, 1, 1];
    const STREAM: usize = 0x30;

    fn filled(launches: u32) -> &'static Credit {
        let credit = Credit::own().unwrap();
        let key = Key { function: 9, grid: GRID, block: BLOCK };
        credit.fill(&key, STREAM, Loan { launches, each: 1_000, turn: 4 }, &WORD, 1);
        credit
    }

    #[test]
    fn credit_is_for_so_many_launches_of_one_kind_in_one_stream() {
        let credit = filled(2);
        assert!(!spend(8, GRID, BLOCK, STREAM) && !spend(9, GRID, BLOCK, 0x40));
        assert!(!spend(9, [7, 2, 4], BLOCK, STREAM) && !spend(9, GRID, [31, 1, 1], STREAM));
        assert!(spend(9, GRID, BLOCK, STREAM));
        assert_eq!(credit.unused(), 1);
        assert!(spend(9, GRID, BLOCK, STREAM) && !spend(9, GRID, BLOCK, STREAM));
        assert_eq!(credit.empty(), 0);
    }

    #[test]
    fn another_thread_has_none_of_it() {
        let credit = filled(2);
        let other = std::thread::spawn(|| spend(9, GRID, BLOCK, STREAM));
        assert!(!other.join().unwrap());
        assert_eq!(credit.empty(), 2);
    }

    #[test]
    fn what_is_put_aside_or_taken_away_is_not_spent_and_not_lost() {
        let credit = filled(3);
        assert!(spend(9, GRID, BLOCK, STREAM));
        put_aside();
        put_aside();
        assert!(!spend(9, GRID, BLOCK, STREAM));
        assert_eq!(credit.empty(), 2);
        let credit = filled(3);
        assert_eq!(credit.revoke(), 3);
        assert!(!spend(9, GRID, BLOCK, STREAM));
    }

    #[test]
    fn a_new_turn_ends_it() {
        static TURN: AtomicU32 = AtomicU32::new(4);
        let credit = Credit::own().unwrap();
        let key = Key { function: 9, grid: GRID, block: BLOCK };
        credit.fill(&key, STREAM, Loan { launches: 5, each: 1_000, turn: 4 }, &TURN, 1);
        assert!(spend(9, GRID, BLOCK, STREAM));
        TURN.store(6, Ordering::Relaxed);
        assert!(!spend(9, GRID, BLOCK, STREAM));
        assert_eq!(credit.empty(), 4);
    }
}
