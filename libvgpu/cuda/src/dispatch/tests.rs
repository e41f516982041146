use super::*;

/// Every line of the table of all entry points, hooked or not.
fn lines() -> impl Iterator<Item = Vec<&'static str>> {
    let all = include_str!("../../../generate/entry_points.tsv");
    all.lines().skip(1).map(|line| line.split('\t').collect())
}

fn at(name: &str, version: i32, flags: u64) -> Option<*const c_void> {
    let name = std::ffi::CString::new(name).unwrap();
    hook_for(&name, version, flags)
}

#[test]
fn a_name_means_the_abi_of_the_version_asked_for() {
    for flags in [0, 1] {
        assert_eq!(at("cuMemAlloc", 2000, flags), Some(hook::cuMemAlloc as *const c_void));
        assert_eq!(at("cuMemAlloc", 12000, flags), Some(hook::cuMemAlloc_v2 as *const c_void));
        assert_eq!(at("cuGetProcAddress", 11030, flags), Some(hook::cuGetProcAddress as *const c_void));
        assert_eq!(at("cuGetProcAddress", 12000, flags), Some(hook::cuGetProcAddress_v2 as *const c_void));
        assert_eq!(at("cuCtxCreate", 11030, flags), Some(hook::cuCtxCreate_v2 as *const c_void));
        assert_eq!(at("cuCtxCreate", 12000, flags), Some(hook::cuCtxCreate_v3 as *const c_void));
        assert_eq!(at("cuCtxCreate", 13000, flags), Some(hook::cuCtxCreate_v4 as *const c_void));
    }
}

#[test]
fn every_hooked_name_is_answered_by_version_and_flavour_as_the_headers_say() {
    for version in [11030, 12000, 13000] {
        for flags in [0, 1, 2] {
            let mut asked = 0;
            for line in lines().filter(|l| l[5] != "pass") {
                let [name, from, until, flavour, symbol] = line[..5] else { panic!("{line:?}") };
                let fits = (from.parse().unwrap()..until.parse().unwrap()).contains(&version);
                let own_flavour = lines().any(|l| l[0] == name && l[3] != "legacy");
                let is_own = flavour != "legacy";
                if fits && is_own == (flags == 2 && own_flavour) {
                    let entry = TABLE.iter().find(|e| Some(e.hook) == at(name, version, flags)).unwrap();
                    assert_eq!((entry.name, entry.per_thread), (name, is_own), "{symbol}");
                    assert!(entry.versions.contains(&version), "{symbol} at {version}");
                    asked += 1;
                }
            }
            assert!(asked > 40, "{asked} at {version}");
        }
    }
}

#[test]
fn the_table_is_the_hooked_part_of_all_entry_points() {
    let hooked: Vec<_> = lines().filter(|l| l[5] != "pass").collect();
    assert_eq!(hooked.len(), TABLE.len());
    for (line, entry) in hooked.iter().zip(TABLE) {
        let versions = line[1].parse().unwrap()..line[2].parse().unwrap();
        assert_eq!((line[0], versions), (entry.name, entry.versions.clone()));
    }
}

#[test]
fn the_table_is_sorted_and_no_two_entries_answer_the_same_question() {
    assert!(TABLE.is_sorted_by_key(|e| e.name));
    for (i, a) in TABLE.iter().enumerate() {
        for b in TABLE.iter().skip(i + 1).filter(|b| b.name == a.name && b.per_thread == a.per_thread) {
            let apart = a.versions.end <= b.versions.start || b.versions.end <= a.versions.start;
            assert!(apart, "{} {:?} {:?}", a.name, a.versions, b.versions);
        }
    }
}

#[test]
fn names_without_a_hook_pass_through_at_every_version() {
    for line in lines().filter(|l| l[5] == "pass") {
        for flags in [0, 1, 2] {
            assert_eq!(at(line[0], 13000, flags), None, "{}", line[0]);
        }
    }
    assert_eq!(at("cuSomethingOfTomorrow", 13000, 0), None);
    assert_eq!(at("", 0, 0), None);
}
