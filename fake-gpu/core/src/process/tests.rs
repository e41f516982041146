use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::clock::Clock;
use crate::profile::{self, Spec};

const MIB: u64 = 1 << 20;

/// A clock that jumps to whatever is waited for.
#[derive(Debug, Default)]
struct Jumping(AtomicU64);

impl Clock for Jumping {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep_until(&self, moment: u64) {
        self.0.fetch_max(moment, Ordering::SeqCst);
    }
}

/// GPUs in a folder that goes with them, and their clock.
struct Node {
    folder: tempfile::TempDir,
    clock: Arc<Jumping>,
}

impl Node {
    fn new(specs: &[Spec]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Gpus::create(&folder.path().join("gpus"), specs).unwrap();
        Self { folder, clock: Arc::default() }
    }

    fn t4() -> Self {
        Self::new(&profile::parse("T4x1", "node").unwrap())
    }

    fn gpus(&self) -> Gpus {
        Gpus::open(&self.folder.path().join("gpus")).unwrap().with_clock(self.clock.clone())
    }

    fn process(&self) -> Process {
        Process::attach(self.gpus()).unwrap()
    }
}

/// What SIGKILL leaves: the lock is gone, nothing was given back.
fn kill(process: Process) {
    process.gpus.release_slot(process.slot);
    std::mem::forget(process);
}

#[test]
fn all_but_the_reserved_memory_can_be_had_and_no_more() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let whole = process.alloc(context, 15_104 * MIB, Kind::Device).unwrap();
    assert!(matches!(process.alloc(context, 1, Kind::Device), Err(FakeGpuError::OutOfMemory)));
    assert!(process.free(whole));
    assert!(!process.free(whole));
    assert_eq!(process.memory(0), (15_104 * MIB, 15_104 * MIB));
}

#[test]
fn sizes_are_charged_in_whole_granules() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let addresses = [1, 512, 513].map(|bytes| process.alloc(context, bytes, Kind::Device).unwrap());
    assert_eq!(process.memory(0).0, 15_104 * MIB - 4 * 512);
    assert!(addresses.iter().all(|a| a % 512 == 0));
    assert_eq!(process.allocation_at(addresses[2] + 512), Some((addresses[2], 513)));
    assert_eq!(process.allocation_at(addresses[2] + 513), None);
}

#[test]
fn a_size_near_the_end_of_the_numbers_is_refused() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    for bytes in [u64::MAX, u64::MAX - 511, u64::MAX / 2] {
        assert!(matches!(process.alloc(context, bytes, Kind::Device), Err(FakeGpuError::OutOfMemory)));
    }
}

#[test]
fn addresses_of_the_first_abi_have_32_bits() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let address = process.alloc(context, 1_000 * MIB, Kind::Narrow).unwrap();
    assert!(u32::try_from(address + 1_000 * MIB).is_ok());
    assert!(process.alloc(context, 4_000 * MIB, Kind::Narrow).is_err());
    assert_eq!(process.memory(0).0, 14_104 * MIB);
}

#[test]
fn processes_share_the_memory_and_an_ended_one_gives_it_back() {
    let node = Node::t4();
    let (one, two) = (node.process(), node.process());
    let (a, b) = (one.create_context(0).unwrap(), two.create_context(0).unwrap());
    one.alloc(a, 10_000 * MIB, Kind::Device).unwrap();
    assert!(two.alloc(b, 10_000 * MIB, Kind::Device).is_err());
    drop(one);
    assert!(two.alloc(b, 10_000 * MIB, Kind::Device).is_ok());
}

#[test]
fn a_killed_process_gives_back_memory_contexts_and_its_place_in_the_queue() {
    let node = Node::t4();
    let (killed, other) = (node.process(), node.process());
    let (a, b) = (killed.create_context(0).unwrap(), other.create_context(0).unwrap());
    killed.alloc(a, 10_000 * MIB, Kind::Device).unwrap();
    for _ in 0..100 {
        killed.launch(a, 1_000_000_000).unwrap();
    }
    node.clock.sleep_until(500_000_000);
    kill(killed);
    other.launch(b, 1_000).unwrap();
    other.synchronize(b);
    // One turn at most was waited for, not a hundred.
    assert!(node.clock.now() < 1_100_000_000, "{}", node.clock.now());
    assert_eq!(other.memory(0).0, 15_104 * MIB);
    let locked = other.gpus.lock();
    assert_eq!(locked.contexts.iter().filter(|c| c.used != 0).count(), 1);
    assert_eq!(locked.slots.iter().filter(|s| s.used != 0).count(), 1);
}

#[test]
fn a_slot_is_reused_after_its_process_died() {
    let node = Node::t4();
    for _ in 0..2 * MAX_PROCESSES {
        kill(node.process());
    }
    assert_eq!(node.process().slot, 0);
}

#[test]
fn a_context_takes_its_allocations_with_it() {
    let node = Node::t4();
    let process = node.process();
    let (one, other) = (process.create_context(0).unwrap(), process.create_context(0).unwrap());
    let address = process.alloc(one, 100 * MIB, Kind::Device).unwrap();
    process.alloc(other, 10 * MIB, Kind::Device).unwrap();
    process.destroy_context(one);
    assert_eq!(process.memory(0).0, 15_094 * MIB);
    assert!(!process.free(address));
}

#[test]
fn a_context_takes_the_overhead_its_profile_says() {
    let mut specs = profile::parse("T4x1", "node").unwrap();
    specs[0].model.context_mib = 104;
    let node = Node::new(&specs);
    let process = node.process();
    let context = process.create_context(0).unwrap();
    assert_eq!(process.memory(0).0, 15_000 * MIB);
    process.destroy_context(context);
    assert_eq!(process.memory(0).0, 15_104 * MIB);
    let context = process.create_context(0).unwrap();
    process.alloc(context, 14_950 * MIB, Kind::Device).unwrap();
    assert!(matches!(process.create_context(0), Err(FakeGpuError::OutOfMemory)));
}

#[test]
fn what_is_written_can_be_read_and_nothing_outside() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let address = process.alloc(context, 1_000, Kind::Device).unwrap();
    let mut bytes = [9; 4];
    assert!(process.read(address + 996, &mut bytes));
    assert_eq!(bytes, [0; 4]);
    assert!(process.write(address + 996, 4, |b| b.copy_from_slice(&[1, 2, 3, 4])).unwrap());
    assert!(process.read(address + 996, &mut bytes));
    assert_eq!(bytes, [1, 2, 3, 4]);
    assert!(!process.read(address + 997, &mut bytes));
    assert!(!process.write(address + 997, 4, |b| b.fill(0)).unwrap());
    assert!(!process.write(address - 1, 4, |b| b.fill(0)).unwrap());
    assert!(process.zero(address, 1_000).unwrap());
    assert!(process.read(address + 996, &mut bytes));
    assert_eq!(bytes, [0; 4]);
}

#[test]
fn managed_memory_is_the_hosts_under_the_same_address_and_charged_whole() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let address = process.alloc(context, 14_000 * MIB, Kind::Managed).unwrap();
    assert_eq!(process.memory(0).0, 1_104 * MIB);
    // SAFETY: the address is of a mapping of that length, which lives as long as the allocation.
    unsafe { ((address + 7) as *mut u8).write(42) };
    let mut byte = [0];
    assert!(process.read(address + 7, &mut byte));
    assert_eq!(byte, [42]);
    assert!(process.free(address));
}

#[test]
fn waiting_ends_with_the_kernel() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let event = process.create_event(context).unwrap();
    process.launch(context, 5_000_000).unwrap();
    let sequence = process.record(context, event).unwrap();
    assert_eq!(process.reached(context, event, sequence), None);
    assert_eq!(process.wait(context, event, sequence), 5_000_000);
    assert!(process.is_idle(context));
    assert_eq!(process.gpus.busy_nanos(&process.gpus.uuid(0)).unwrap(), 5_000_000);
}

#[test]
fn a_full_queue_blocks_until_a_kernel_has_begun() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    for _ in 0..=crate::layout::QUEUE {
        process.launch(context, 1_000_000).unwrap();
    }
    assert_eq!(node.clock.now(), 0);
    process.launch(context, 1_000_000).unwrap();
    assert_eq!(node.clock.now(), 1_000_000);
}

#[test]
fn a_gpu_off_the_bus_takes_no_more_work() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let uuid = process.gpus.uuid(0);
    process.gpus.set_xid(&uuid, OFF_THE_BUS).unwrap();
    assert!(matches!(process.launch(context, 1), Err(FakeGpuError::Lost)));
    assert!(matches!(process.alloc(context, 1, Kind::Device), Err(FakeGpuError::Lost)));
    assert!(matches!(process.create_context(0), Err(FakeGpuError::Lost)));
    process.gpus.set_xid(&uuid, 0).unwrap();
    assert!(process.launch(context, 1).is_ok());
}
