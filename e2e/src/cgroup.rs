//! The cluster's cgroups: a tree of its own in every hierarchy, made before its programs and removed after them.
//!
//! cgroups are not part of the namespaces, so the tree has a unique name. Version 1 needs one folder per controller and
//! cpuset filled by hand; version 2 needs the controllers handed down level by level. Hybrid hosts count as version 1.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Controllers a kubelet needs.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];

/// How this host mounts cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// Version 1: the mount point of each hierarchy, and of the version 2 tree beside them if there is one.
    V1(Vec<PathBuf>),
    /// Version 2: the one mount point.
    V2(PathBuf),
}

impl Hierarchies {
    /// Reads the host's mounts.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` cannot be read, or lists no cgroups.
    pub fn of_host() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Self::parse(&mounts).ok_or_else(|| io::Error::other("no cgroups are mounted on this machine"))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1 = BTreeSet::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let (left, right) = line.split_once(" - ")?;
            let point = PathBuf::from(left.split(' ').nth(4)?);
            match right.split(' ').next()? {
                "cgroup" => drop(v1.insert(point)),
                "cgroup2" => v2 = Some(point),
                _ => {}
            }
        }
        match (v1.is_empty(), v2) {
            (true, None) => None,
            (true, Some(root)) => Some(Self::V2(root)),
            (false, v2) => Some(Self::V1(v1.into_iter().chain(v2).collect())),
        }
    }

    /// Whether kubelets must be told that this is version 1.
    pub fn is_v1(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    /// Every folder a cluster's tree has, parents first.
    fn folders(&self, cluster: &str, nodes: &[String]) -> Vec<PathBuf> {
        let roots: Vec<&PathBuf> = match self {
            Self::V1(points) => points.iter().collect(),
            Self::V2(root) => vec![root],
        };
        let below = |root: &&PathBuf| {
            let top = root.join(cluster);
            std::iter::once(top.clone()).chain(nodes.iter().map(move |n| top.join(n))).collect::<Vec<_>>()
        };
        roots.iter().flat_map(below).collect()
    }

    /// Makes the tree.
    ///
    /// # Errors
    /// The first folder or file that could not be written.
    pub fn create(&self, cluster: &str, nodes: &[String]) -> io::Result<()> {
        if let Self::V2(root) = self {
            hand_down(root)?;
        }
        for folder in self.folders(cluster, nodes) {
            fs::create_dir_all(&folder)?;
            match self {
                Self::V1(_) => fill_cpuset(&folder)?,
                Self::V2(_) => hand_down(&folder)?,
            }
        }
        Ok(())
    }

    /// What is there of a cluster's tree.
    pub fn left(&self, cluster: &str) -> Vec<PathBuf> {
        self.folders(cluster, &[]).into_iter().filter(|top| top.exists()).collect()
    }

    /// Removes the tree, deepest first. What still has processes stays and is returned.
    pub fn remove(&self, cluster: &str) -> Vec<PathBuf> {
        let tops = self.folders(cluster, &[]);
        tops.into_iter().filter(|top| top.exists() && !remove_tree(top)).collect()
    }
}

/// Version 1: an empty cpuset takes no process, and children do not inherit.
fn fill_cpuset(folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, parent) = (folder.join(file), folder.parent().map(|p| p.join(file)));
        if let (true, Some(parent)) = (own.exists(), parent)
            && fs::read_to_string(&own)?.trim().is_empty()
        {
            fs::write(&own, fs::read_to_string(parent)?)?;
        }
    }
    Ok(())
}

/// Version 2: lets children use the controllers this level has.
fn hand_down(folder: &Path) -> io::Result<()> {
    let has = fs::read_to_string(folder.join("cgroup.controllers"))?;
    let wanted = handed_down(&has);
    if wanted.is_empty() { Ok(()) } else { fs::write(folder.join("cgroup.subtree_control"), wanted) }
}

/// `cpu memory hugetlb` -> `+cpu +memory`.
fn handed_down(available: &str) -> String {
    let wanted = available.split_whitespace().filter(|c| CONTROLLERS.contains(c)).map(|c| format!("+{c}"));
    wanted.collect::<Vec<_>>().join(" ")
}

fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 20 0:29 / /proc rw - proc proc rw\n";
    const V2: &str = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_hybrid_host_counts_as_version_1_and_keeps_its_unified_tree() {
        let want = ["cpu", "memory", "unified"].map(|c| Path::new("/sys/fs/cgroup").join(c)).to_vec();
        assert_eq!(Hierarchies::parse(V1), Some(Hierarchies::V1(want)));
    }

    #[test]
    fn a_unified_host_has_one_tree_with_a_folder_per_node() {
        let host = Hierarchies::parse(V2).unwrap();
        let want = ["c", "c/node-a", "c/node-b"].map(|p| Path::new("/sys/fs/cgroup").join(p)).to_vec();
        assert_eq!(host.folders("c", &["node-a".into(), "node-b".into()]), want);
    }

    #[test]
    fn no_cgroups_are_said_to_be_none() {
        assert_eq!(Hierarchies::parse("33 20 0:29 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn only_controllers_a_kubelet_needs_are_handed_down() {
        assert_eq!(handed_down("cpuset cpu io hugetlb memory rdma pids"), "+cpuset +cpu +io +memory +pids");
    }

    #[test]
    fn version_2_controllers_are_written_level_by_level() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory misc").unwrap();
        hand_down(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+cpu +memory");
    }
}
