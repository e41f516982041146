//! What the driver keeps for a process of a share beside what the process asked for: contexts, code, local memory.
//!
//! Once a second: what NVML says a process holds, less what its share's books say, is written into the share's `limits`, and
//! the limiter charges it to each process with a context. Which share a process belongs to is what the kernel says it has
//! mapped: the share's `usage` file. So it takes the host's pid namespace and no word of the container's.
//!
//! * Of several processes of a share the largest figure counts for each: no sum of limits is more than the card has.
//! * A figure is taken only when the books said the same before and after NVML was asked.
//! * A new share starts with the smallest figure seen on its GPU so far, which is nothing before the first.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vgpu_api::MIB;

use crate::gpus::Gpus;
use crate::share_files::{SharePaths, read_usage};
use crate::state::State;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Device and inode of a file.
type File = (u64, u64);

/// A process that was found out about.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When it began, in the kernel's ticks: ids are used again.
    began: u64,
    usage: File,
    /// Its id in its own pid namespace.
    inner: u32,
}

/// Shares by their `usage` files.
#[derive(Debug)]
struct Share {
    uid: String,
    share_id: String,
    uuid: String,
    paths: SharePaths,
}

/// Bytes of the GPU each process of a share asked for, by its id in its own pid namespace.
type Books = HashMap<u32, u64>;

/// Looks for ever.
pub async fn run(gpus: Arc<dyn Gpus>, state: Arc<State>) {
    let mut known = HashMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (gpus, state) = (gpus.clone(), state.clone());
        // NVML calls block, sometimes for long.
        let looked = tokio::task::spawn_blocking(move || {
            look(&*gpus, &state, Path::new("/proc"), &mut known);
            known
        });
        let Ok(back) = looked.await else { return };
        known = back;
    }
}

fn look(gpus: &dyn Gpus, state: &State, proc: &Path, known: &mut HashMap<u32, Known>) {
    let shares = shares(state);
    if shares.is_empty() {
        return;
    }
    let before: HashMap<File, Books> = shares.iter().map(|(file, share)| (*file, books(share))).collect();
    // What is wrong with the driver is told by who lists the GPUs.
    let Ok(holders) = gpus.holders() else { return };
    known.retain(|pid, _| holders.iter().any(|holder| holder.pid == *pid));
    let mut after: HashMap<File, Books> = HashMap::new();
    let mut largest: BTreeMap<File, u64> = BTreeMap::new();
    let mut smallest: BTreeMap<&str, u64> = BTreeMap::new();
    for holder in &holders {
        let Some(process) = find_out(proc, holder.pid, known, &shares) else { continue };
        let Some(share) = shares.get(&process.usage).filter(|share| share.uuid == holder.uuid) else {
            continue;
        };
        let now = after.entry(process.usage).or_insert_with(|| books(share));
        let asked = now.get(&process.inner).copied();
        let Some(asked) = asked.filter(|now| before[&process.usage].get(&process.inner) == Some(now)) else {
            continue;
        };
        let kept = holder.memory.saturating_sub(asked).div_ceil(MIB) * MIB;
        let most = largest.entry(process.usage).or_default();
        *most = kept.max(*most);
        let least = smallest.entry(&share.uuid).or_insert(kept);
        *least = kept.min(*least);
    }
    for (file, bytes) in largest {
        let Some(share) = shares.get(&file) else { continue };
        if let Err(error) = state.set_overhead(&share.uid, &share.share_id, bytes) {
            tracing::warn!(share = share.share_id, %error, "what the driver keeps for its processes is not told");
        }
    }
    smallest.into_iter().for_each(|(uuid, bytes)| state.estimate_overhead(uuid, bytes));
}

fn shares(state: &State) -> HashMap<File, Share> {
    let mut found = HashMap::new();
    for (uid, claim) in state.prepared().claims {
        for share in claim.shares.into_iter().filter(|share| !share.exclusive) {
            let paths = SharePaths::new(&state.paths().share_dir, &uid, &share.share_id);
            if let Ok(file) = fs::metadata(&paths.usage) {
                let (uid, share_id, uuid) = (uid.clone(), share.share_id, share.uuid);
                found.insert((file.dev(), file.ino()), Share { uid, share_id, uuid, paths });
            }
        }
    }
    found
}

/// Where two processes have the same id in namespaces of their own, the larger charge counts.
fn books(share: &Share) -> Books {
    let mut books = Books::new();
    for process in read_usage(&share.paths).map(|usage| usage.processes).unwrap_or_default() {
        let asked = process.memory.saturating_sub(process.on_host).saturating_sub(process.overhead);
        let known = books.entry(process.pid).or_default();
        *known = asked.max(*known);
    }
    books
}

fn find_out(
    proc: &Path,
    pid: u32,
    known: &mut HashMap<u32, Known>,
    shares: &HashMap<File, Share>,
) -> Option<Known> {
    let folder = proc.join(pid.to_string());
    let began = began(&fs::read_to_string(folder.join("stat")).ok()?)?;
    if let Some(known) = known.get(&pid).filter(|known| known.began == began) {
        return Some(*known);
    }
    let usage = mapped(&fs::read_to_string(folder.join("maps")).ok()?, |file| shares.contains_key(&file))?;
    let inner = innermost(&fs::read_to_string(folder.join("status")).ok()?)?;
    let found = Known { began, usage, inner };
    known.insert(pid, found);
    Some(found)
}

/// Field 22 of `/proc/<pid>/stat`. The second is a name that may hold spaces and parentheses.
fn began(stat: &str) -> Option<u64> {
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// The first mapped file of those wanted. A line is `address flags offset major:minor inode path`, the device in hexadecimal.
fn mapped(maps: &str, is_wanted: impl Fn(File) -> bool) -> Option<File> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(3);
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let device = rustix::fs::makedev(number(major)?, number(minor)?);
        Some((device, fields.next()?.parse().ok()?)).filter(|file| is_wanted(*file))
    })
}

/// The last of the ids on the `NSpid` line: the process's own.
fn innermost(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_what_it_has_mapped() {
        let maps = "5581-5582 r-xp 00001000 fd:01 1234   /bin/x (deleted)\n\
                    7f01-7f02 rw-s 00000000 00:5f 17 /run/vgpu-dra/GPU-1/s/usage\n\
                    7f03-7f04 rw-p 00000000 00:00 0\n";
        let file = |minor, inode| (rustix::fs::makedev(0, minor), inode);
        assert_eq!(mapped(maps, |found| found == file(0x5f, 17)), Some(file(0x5f, 17)));
        assert_eq!(mapped(maps, |found| found == file(0x5f, 18)), None);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_hides_nothing() {
        let stat = "42 (a ) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 777 10 11";
        assert_eq!(began(stat), Some(777));
        assert_eq!(innermost("Name:\tx\nNSpid:\t4711\t12\t1\n"), Some(1));
        assert_eq!(innermost("Name:\tx\n"), None);
    }
}
