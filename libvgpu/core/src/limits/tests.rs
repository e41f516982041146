use std::mem::{offset_of, size_of};

use super::*;

const ALL: Limits = Limits {
    memory: 3 << 30,
    cores: 30,
    overhead: 300 << 20,
    enforcement: Enforcement::Elastic,
    priority: Priority::Low,
    resident: 2 << 30,
};

/// A file of version 1 as that version wrote it.
fn oldest(cores: u32) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[0..8].copy_from_slice(b"vgpulim1");
    bytes[8] = 1;
    bytes[12..16].copy_from_slice(&4096u32.to_le_bytes());
    bytes[20..24].copy_from_slice(&cores.to_le_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 30).to_le_bytes());
    bytes[32..40].copy_from_slice(&(5u64 << 20).to_le_bytes());
    bytes
}

fn on_disk(bytes: &[u8], name: &str) -> (std::path::PathBuf, File) {
    let path = std::env::temp_dir().join(format!("vgpu-limits-{name}-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, file)
}

#[test]
fn the_region_is_the_table_above() {
    assert_eq!((offset_of!(Region, version), offset_of!(Region, size)), (8, 12));
    assert_eq!((offset_of!(Region, sequence), offset_of!(Region, cores)), (16, 20));
    assert_eq!((offset_of!(Region, memory), offset_of!(Region, overhead)), (24, 32));
    assert_eq!((offset_of!(Region, enforcement), offset_of!(Region, priority)), (40, 44));
    assert_eq!((offset_of!(Region, resident), offset_of!(Region, lease)), (48, 64));
    assert_eq!((size_of::<Lease>(), size_of::<Region>()), (280, 344));
}

#[test]
fn what_is_encoded_is_decoded_in_every_combination() {
    for enforcement in [Enforcement::Hard, Enforcement::Elastic, Enforcement::None] {
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            let limits = Limits { enforcement, priority, ..ALL };
            assert_eq!(decode(&encode(&limits)), Ok(limits));
            assert!(says(&encode(&limits), &limits));
        }
    }
    assert!(!says(&encode(&ALL), &Limits { priority: Priority::High, ..ALL }));
}

#[test]
fn the_bytes_are_the_table_above() {
    let bytes = encode(&ALL);
    assert_eq!(&bytes[..8], b"vgpulim1");
    assert_eq!((bytes[8], bytes[12], bytes[13], bytes[20]), (2, 0, 16, 30));
    assert_eq!((bytes[40], bytes[44]), (1, 2));
    assert_eq!(bytes[48..56], (2u64 << 30).to_le_bytes());
    assert!(bytes[56..].iter().all(|b| *b == 0));
}

#[test]
fn an_allocation_is_told_what_all_the_limits_say() {
    for resident in [0, 2 << 30] {
        let limits = Limits { resident, ..ALL };
        let region = Region::default();
        region.memory.store(limits.memory, Ordering::Relaxed);
        region.overhead.store(limits.overhead, Ordering::Relaxed);
        region.resident.store(limits.resident, Ordering::Relaxed);
        assert_eq!(region.read_memory(), (limits.on_gpu(), limits.overhead));
        // A writer that died in the middle.
        region.sequence.store(1, Ordering::Relaxed);
        assert_eq!(region.read_memory(), (limits.on_gpu(), limits.overhead));
    }
}

#[test]
fn what_is_not_on_the_gpu_may_be_on_the_host() {
    let of = |resident| Limits { memory: 300, resident, ..Limits::default() };
    assert_eq!(
        [0, 100, 300, 900].map(|r| (of(r).on_gpu(), of(r).on_host())),
        [(300, 0), (100, 200), (300, 0), (300, 0)]
    );
    assert_eq!([0, 100, 300].map(|r| of(r).is_movable()), [false, true, true]);
    assert_eq!(of(100).in_version(OLDEST).memory, 100);
}

#[test]
fn a_cap_of_all_is_none() {
    let all = Limits { cores: 100, ..Limits::default() };
    assert!(!decode(&encode(&all)).unwrap().terms().is_capped());
    assert_eq!(all.terms().reserved(), 100);
}

#[test]
fn a_file_of_the_oldest_version_is_a_hard_cap_and_stays_of_its_version() {
    let found = decode(&oldest(30)).unwrap();
    let want = Limits { memory: 1 << 30, cores: 30, overhead: 5 << 20, ..Limits::default() };
    assert_eq!(found, want);
    let (path, file) = on_disk(&oldest(30), "oldest");
    rewrite(&file, &ALL).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // What is elastic has no cap; it knows no other way to say so.
    assert_eq!((bytes[8], bytes[16], bytes[20]), (1, 2, 0));
    assert!(bytes[40..].iter().all(|b| *b == 0));
    assert!(says(&bytes, &ALL));
}

#[test]
fn a_rewrite_leaves_turns_alone() {
    let mut bytes = encode(&ALL);
    bytes[64] = 9;
    let (path, file) = on_disk(&bytes, "turns");
    rewrite(&file, &Limits { cores: 60, ..ALL }).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((bytes[16], bytes[20], bytes[64]), (2, 60, 9));
}

#[test]
fn other_bytes_are_refused() {
    assert_eq!(decode(&[0; SIZE]), Err(LimitsError::NotLimits));
    assert_eq!(decode(b"vgpulim1"), Err(LimitsError::NotLimits));
    assert_eq!(decode(&encode(&ALL)[..100]), Err(LimitsError::NotLimits));
    let mut newer = encode(&Limits::default());
    newer[8] = 3;
    assert_eq!(decode(&newer), Err(LimitsError::Version(3)));
}
