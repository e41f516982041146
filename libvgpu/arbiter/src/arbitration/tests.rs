//! Shares in a folder, on a clock the test turns. Their processes are this one, through files as a container has them.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use vgpu_core::compute::tuning;
use vgpu_core::compute::words::Turn::{Denied, Held, Open};
use vgpu_core::limits::{self, Limits};
use vgpu_core::usage;
use vgpu_share::Share;

use super::*;

const MS: u64 = 1_000_000;

/// Time passes by waiting only.
struct Manual(u64);

impl Clock for Manual {
    fn now(&self) -> u64 {
        self.0
    }
    fn wait(&mut self, fds: &mut Fds, until: u64) {
        if !fds.poll(0) {
            self.0 = self.0.max(until);
        }
    }
}

struct Node {
    folder: tempfile::TempDir,
    arbitration: Arbitration,
    clock: Manual,
    members: Vec<Member>,
}

impl Node {
    fn new() -> Self {
        let (arbitration, clock) = (Arbitration::default(), Manual(1_000 * MS));
        Self { folder: tempfile::tempdir().unwrap(), arbitration, clock, members: Vec::new() }
    }

    /// Makes a share, and takes it if that is wanted.
    fn share(&mut self, name: &str, cores: u32) -> Share {
        let folder = self.folder.path().join(name);
        make(&folder, &limits::encode(&Limits { cores, ..Limits::default() }));
        let at = |file: &str| folder.join(file);
        let files = Files { limits: at("limits"), usage: at("usage"), bell: at("bell") };
        self.members.retain(|member| member.name != name);
        self.members.push(Member { gpu: "GPU-1".into(), name: name.into(), files, oversubscribed: false });
        self.take();
        Share::open(&folder).unwrap()
    }

    fn take(&mut self) {
        let failed = self.arbitration.set(self.clock.0, self.members.clone());
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// Looks until that moment, or until nothing is due before a bell rings.
    fn pass(&mut self, time: u64) {
        let end = self.clock.0 + time;
        while self.clock.0 < end {
            self.arbitration.round(&mut self.clock, &[], end);
        }
        self.arbitration.look(&mut self.clock);
    }
}

fn make(folder: &Path, limits: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    for file in ["limits", "usage", "bell"] {
        // Made anew, as after a claim was unprepared and prepared again.
        let _ = fs::remove_file(folder.join(file));
    }
    fs::write(folder.join("limits"), limits).unwrap();
    fs::write(folder.join("usage"), usage::empty()).unwrap();
    let bell = CString::new(folder.join("bell").as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(bell.as_ptr(), 0o666) }, 0);
}

/// Says that this process waits for the share's turn, or no longer.
fn waits(share: &Share, waits: bool) {
    share.usage.compute.waiting.set(share.ledger.slot(), waits);
    share.ring();
}

fn turn(node: &Node, share: &Share) -> Turn {
    share.limits.lease.turn(node.clock.0)
}

#[test]
fn of_two_that_wait_one_gets_the_turn_as_soon_as_they_ring() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    assert!(first.limits.lease.is_served());
    assert_eq!((turn(&node, &first), turn(&node, &second)), (Open, Open));
    waits(&first, true);
    waits(&second, true);
    let rang = node.clock.0;
    node.arbitration.round(&mut node.clock, &[], u64::MAX);
    node.arbitration.look(&mut node.clock);
    assert!(node.clock.0 <= rang + LEAST_LOOK, "{} ns later", node.clock.0 - rang);
    assert_eq!((turn(&node, &first), turn(&node, &second)), (Held, Denied));
    assert_eq!(node.arbitration.turns(), 1);
}

#[test]
fn a_holder_that_does_nothing_loses_the_turn_and_one_that_is_alone_needs_none() {
    let mut node = Node::new();
    let shares = ["a", "b", "c"].map(|name| node.share(name, 30));
    node.pass(MS);
    shares.iter().for_each(|share| waits(share, true));
    let turns = |node: &Node| shares.each_ref().map(|share| turn(node, share));
    node.pass(tuning::WATCH);
    assert_eq!(turns(&node), [Held, Denied, Denied]);
    waits(&shares[0], false);
    node.pass(tuning::GRACE + 2 * tuning::WATCH);
    assert_eq!(turns(&node), [Denied, Held, Denied]);
    waits(&shares[1], false);
    node.pass(2 * tuning::AWAY);
    assert_eq!(turns(&node), [Open, Open, Open]);
    assert_eq!(node.arbitration.turns(), 2);
}

#[test]
fn who_waits_is_woken_when_the_turn_comes() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    waits(&first, true);
    waits(&second, true);
    node.pass(tuning::WATCH);
    assert_eq!(turn(&node, &second), Denied);
    let word = second.limits.lease.word();
    let seen = word.load(std::sync::atomic::Ordering::Acquire);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let time = libc::timespec { tv_sec: 60, tv_nsec: 0 };
            let begin = Instant::now();
            // SAFETY: a word of a mapping of this process, which is read-only as a container's is, and a local.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    libc::FUTEX_WAIT,
                    seen,
                    &raw const time,
                    0usize,
                    0usize,
                )
            };
            begin.elapsed().as_secs()
        });
        // Long enough that it sleeps; if not, the word has changed before and it does not begin to.
        std::thread::sleep(std::time::Duration::from_millis(100));
        waits(&first, false);
        node.pass(tuning::GRACE + 2 * tuning::WATCH);
        assert_ne!(turn(&node, &second), Denied);
        assert!(waiter.join().unwrap() < 30);
    });
}

#[test]
fn a_process_that_has_ended_waits_for_nothing() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    // Nobody holds the lock of that slot.
    first.usage.compute.waiting.set(400, true);
    first.usage.compute.busy.set(401, true);
    waits(&second, true);
    node.pass(3 * tuning::RECHECK);
    assert_eq!(turn(&node, &second), Open);
}

#[test]
fn who_stops_arbitrating_leaves_every_turn_open() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    waits(&first, true);
    waits(&second, true);
    node.pass(tuning::WATCH);
    assert_eq!((turn(&node, &first), turn(&node, &second)), (Held, Denied));
    node.arbitration.release(&mut node.clock);
    assert_eq!((turn(&node, &first), turn(&node, &second)), (Open, Open));
    // And one that is killed says nothing, for as long as its heartbeat is believed.
    node.take();
    node.pass(tuning::WATCH);
    assert_eq!(turn(&node, &second), Denied);
    node.clock.0 += tuning::HEARTBEAT + 1;
    assert_eq!((turn(&node, &first), turn(&node, &second)), (Open, Open));
}

#[test]
fn a_share_that_is_gone_wants_nothing_and_one_made_again_is_another() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    waits(&first, true);
    waits(&second, true);
    node.pass(tuning::WATCH);
    assert_eq!(turn(&node, &second), Denied);
    let again = node.share("a", 50);
    node.pass(tuning::WATCH);
    assert_eq!((turn(&node, &second), turn(&node, &again)), (Open, Open));
    waits(&again, true);
    node.pass(2 * tuning::WATCH);
    assert_ne!(turn(&node, &again), Open);
    node.members.retain(|member| member.name == "b");
    node.take();
    node.pass(tuning::WATCH);
    assert_eq!(turn(&node, &second), Open);
}

#[test]
fn priority_and_enforcement_are_those_of_the_limits() {
    use vgpu_core::compute::{Enforcement, Priority};
    let mut node = Node::new();
    let (low, high) = (node.share("a", 50), node.share("b", 10));
    let file =
        fs::OpenOptions::new().read(true).write(true).open(node.folder.path().join("b/limits")).unwrap();
    let limits = Limits {
        cores: 10,
        enforcement: Enforcement::Elastic,
        priority: Priority::High,
        ..Limits::default()
    };
    limits::rewrite(&file, &limits).unwrap();
    node.pass(MS);
    waits(&low, true);
    waits(&high, true);
    node.pass(2 * tuning::WATCH);
    assert_eq!((turn(&node, &low), turn(&node, &high)), (Denied, Held));
    assert!(low.limits.lease.is_outranked() && !high.limits.lease.is_outranked());
}

#[test]
fn a_share_of_the_oldest_version_is_told_nothing_and_counts_as_a_neighbour() {
    let mut node = Node::new();
    let new = node.share("a", 50);
    let folder = node.folder.path().join("old");
    let mut bytes = limits::encode(&Limits { cores: 50, ..Limits::default() });
    bytes[8] = 1;
    make(&folder, &bytes);
    fs::remove_file(folder.join("bell")).unwrap();
    let files =
        Files { limits: folder.join("limits"), usage: folder.join("usage"), bell: folder.join("bell") };
    node.members.push(Member { gpu: "GPU-1".into(), name: "old".into(), files, oversubscribed: false });
    node.take();
    let old = Share::open(&folder).unwrap();
    old.usage.compute.busy.set(old.ledger.slot(), true);
    node.pass(MOST_LOOK + MS);
    assert!(!old.limits.lease.is_served());
    assert_eq!(turn(&node, &new), Open);
    let now = node.clock.0;
    assert_eq!(new.limits.lease.own_part(now - 100_000, now, 1), 50_000);
}

#[test]
fn a_file_its_tenant_has_cut_says_nothing() {
    let mut node = Node::new();
    let (first, second) = (node.share("a", 50), node.share("b", 50));
    node.pass(MS);
    waits(&second, true);
    fs::OpenOptions::new().write(true).open(node.folder.path().join("a/usage")).unwrap().set_len(0).unwrap();
    first.ring();
    node.pass(3 * tuning::RECHECK);
    assert_eq!(turn(&node, &second), Open);
}
