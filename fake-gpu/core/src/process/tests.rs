use super::*;
use crate::profile::{self, Description};

const MIB: u64 = 1 << 20;

/// GPUs in a folder that goes with them, in virtual time: whatever is waited for is reached at once.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new(description: Description) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut description = description.in_virtual_time();
        let timing = &mut description.timing;
        (timing.launch, timing.record, timing.query, timing.wake) = (0, 0, 0, 0);
        Gpus::create(&folder.path().join("gpus"), &description).unwrap();
        Self { folder }
    }

    fn t4() -> Self {
        Self::new(profile::parse("T4x1", "node").unwrap())
    }

    fn gpus(&self) -> Gpus {
        Gpus::open(&self.folder.path().join("gpus")).unwrap()
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
    other.gpus.sleep_until(500_000_000);
    kill(killed);
    other.launch(b, 1_000).unwrap();
    other.synchronize(b);
    // One turn at most was waited for, not a hundred.
    assert!(other.gpus.now() < 1_100_000_000, "{}", other.gpus.now());
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
    specs.gpus[0].model.context_mib = 104;
    let node = Node::new(specs);
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
fn managed_memory_is_the_hosts_under_the_same_address_and_charged() {
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
fn managed_memory_lies_where_there_is_room_and_where_it_was_sent() {
    let node = Node::t4();
    let process = node.process();
    let context = process.create_context(0).unwrap();
    let free = || process.memory(0).0 / MIB;
    let whole = free();
    let address = process.alloc(context, (whole + 100) * MIB, Kind::Managed).unwrap();
    assert_eq!(free(), 0);
    assert!(process.alloc(context, MIB, Kind::Device).is_err());
    for (from, length, on_host, left) in [
        (100, 50, true, 50),
        (120, 60, true, 80),
        (110, 20, false, 60),
        (0, whole + 100, true, whole),
        (10, 10, false, whole - 10),
        (5, 30, true, whole),
        (0, whole + 100, false, 0),
    ] {
        assert!(process.settle_at(address + from * MIB, length * MIB, on_host));
        assert_eq!(free(), left, "{from} {length} {on_host}");
    }
    assert!(!process.settle_at(address, (whole + 101) * MIB, true));
    assert!(process.free(address));
    assert_eq!(free(), whole);
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
    for _ in 0..crate::layout::QUEUE {
        process.launch(context, 1_000_000).unwrap();
    }
    assert_eq!(process.gpus.now(), 0);
    process.launch(context, 1_000_000).unwrap();
    assert_eq!(process.gpus.now(), 1_000_000);
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

#[test]
fn truth_is_kept_to_the_byte_with_its_high_water_marks() {
    let mut description = profile::parse("T4x1", "node").unwrap();
    description.gpus[0].model.context_mib = 4;
    let node = Node::new(description);
    let (one, other) = (node.process(), node.process());
    let (a, b) = (one.create_context(0).unwrap(), other.create_context(0).unwrap());
    let address = one.alloc(a, 100 * MIB, Kind::Device).unwrap();
    other.alloc(b, 512, Kind::Device).unwrap();
    one.free(address);
    let status = node.gpus().status_of(0);
    assert_eq!((status.used, status.peak), (8 * MIB + 512, 108 * MIB + 512));
    let first = &status.processes[0];
    assert_eq!((first.memory, first.overhead, first.peak), (4 * MIB, 4 * MIB, 104 * MIB));
    node.gpus().reset_peaks();
    assert_eq!(node.gpus().status_of(0).peak, 8 * MIB + 512);
}

#[test]
fn exported_memory_is_charged_once_and_free_when_its_last_holder_is_gone() {
    let node = Node::t4();
    let (owner, one, other) = (node.process(), node.process(), node.process());
    owner.charge(0, 64 * MIB).unwrap();
    let number = owner.export(Some(0), 64 * MIB).unwrap();
    assert_eq!(owner.import(number), Some((Some(0), 64 * MIB, true)));
    assert_eq!(one.import(number), Some((Some(0), 64 * MIB, false)));
    assert_eq!(other.import(number), Some((Some(0), 64 * MIB, false)));
    let memory = |process: &Process| process.gpus.lock().slots[process.slot].memory[0];
    assert_eq!([memory(&owner), memory(&one), memory(&other)], [64 * MIB, 0, 0]);
    kill(owner);
    one.gpus.lock().reap(None);
    assert_eq!([memory(&one), memory(&other)], [64 * MIB, 0]);
    one.drop_export(number);
    assert_eq!([memory(&one), memory(&other)], [0, 64 * MIB]);
    other.drop_export(number);
    assert_eq!((memory(&other), other.memory(0).0, other.import(number)), (0, 15_104 * MIB, None));
}

#[test]
fn a_store_can_be_mapped_at_several_addresses_and_stores_lie_side_by_side() {
    let node = Node::t4();
    let process = node.process();
    let (one, other) = (Store::new(MIB), Store::new(MIB));
    let base = process.reserve(4 * MIB, MIB).unwrap();
    assert!(process.map(0, base, MIB, &one, 0) && process.map(0, base + MIB, MIB, &other, 0));
    assert!(!process.map(0, base + MIB / 2, MIB, &one, 0) && !process.map(0, base + 3 * MIB, MIB, &one, 1));
    assert!(process.map(0, base + 2 * MIB, MIB, &one, 0));
    // Across the border, and seen again through the third.
    let mut put = [1u8, 2, 3, 4].into_iter();
    assert!(
        process
            .write(base + MIB - 2, 4, |part| part.iter_mut().for_each(|b| *b = put.next().unwrap()))
            .unwrap()
    );
    let (mut border, mut end) = ([0; 4], [0; 2]);
    assert!(process.read(base + MIB - 2, &mut border) && process.read(base + 3 * MIB - 2, &mut end));
    assert_eq!((border, end), ([1, 2, 3, 4], [1, 2]));
    assert!(!process.read(base + 3 * MIB - 1, &mut end));
}

#[test]
fn without_time_nothing_takes_any() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpus");
    Gpus::create(&path, &profile::parse("T4", "node").unwrap().without_time()).unwrap();
    let process = Process::attach(Gpus::open(&path).unwrap()).unwrap();
    let context = process.create_context(0).unwrap();
    (0..10_000).for_each(|_| process.launch(context, 1_000_000_000_000).unwrap());
    process.synchronize(context);
    assert_eq!(process.gpus.busy_nanos(&process.gpus.uuid(0)).unwrap(), 0);
}
