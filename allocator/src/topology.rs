//! How close GPUs of a node are to each other.

/// Where a GPU is in its node: numbers that are equal for GPUs that share it; `None` where there is none or it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Site {
    /// GPUs that reach each other over NVLink.
    pub nvlink: Option<u16>,
    /// PCIe root, and so the switch below it.
    pub pcie: Option<u32>,
    /// NUMA node.
    pub numa: Option<u16>,
}

/// How much it matters that the GPUs of one request are close to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topology {
    /// Not at all.
    Ignore,
    /// Among GPUs that the policy holds for equally good, the closest.
    #[default]
    Prefer,
    /// Every two of them reach each other over NVLink or below one PCIe root.
    Require,
}

/// Steps from one GPU to another: 0 over NVLink, 1 below a PCIe root, 2 inside a NUMA node, 3 across the host.
fn steps(a: &Site, b: &Site) -> u32 {
    if a.nvlink.is_some() && a.nvlink == b.nvlink {
        0
    } else if a.pcie.is_some() && a.pcie == b.pcie {
        1
    } else if a.numa.is_some() && a.numa == b.numa {
        2
    } else {
        3
    }
}

/// Whether two GPUs reach each other without the host.
pub(crate) fn are_joined(a: &Site, b: &Site) -> bool {
    steps(a, b) <= 1
}

/// Of `open`, so many that are closest to each other and to `fixed`: the longest way between two counts first, then all ways
/// together. One after the other is added to each first one in turn; among equals those that come first.
pub(crate) fn closest(fixed: &[Site], open: &[Site], count: usize) -> Vec<usize> {
    // Longest way and sum of ways from each to what is chosen.
    let ways = |to: &[Site]| -> Vec<(u32, u32)> {
        let way = |from: &Site| to.iter().map(|site| steps(from, site)).fold((0, 0), add);
        open.iter().map(way).collect()
    };
    let before = ways(fixed);
    let mut best: Option<((u32, u32), Vec<usize>)> = None;
    for seed in 0..open.len() {
        let (mut ways, mut chosen) = (before.clone(), vec![seed]);
        let mut cost = before[seed];
        while chosen.len() < count {
            let last = open[chosen[chosen.len() - 1]];
            ways.iter_mut().zip(open).for_each(|(way, site)| *way = add(*way, steps(site, &last)));
            let next = (0..open.len()).filter(|i| !chosen.contains(i)).min_by_key(|i| ways[*i]);
            let Some(next) = next else { break };
            cost = (cost.0.max(ways[next].0), cost.1 + ways[next].1);
            chosen.push(next);
        }
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, chosen));
        }
    }
    best.map(|(_, chosen)| chosen).unwrap_or_default()
}

fn add((longest, sum): (u32, u32), way: u32) -> (u32, u32) {
    (longest.max(way), sum + way)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nvlink pcie numa` of each GPU; `-` is none.
    fn sites(text: &str) -> Vec<Site> {
        let site = |part: &str| {
            let numbers: Vec<Option<u16>> = part.split_whitespace().map(|n| n.parse().ok()).collect();
            Site { nvlink: numbers[0], pcie: numbers[1].map(u32::from), numa: numbers[2] }
        };
        text.split(',').map(site).collect()
    }

    #[test]
    fn nvlink_comes_before_the_switch_and_the_switch_before_the_numa_node() {
        for (open, count, want) in [
            ("- 1 0, - 2 0, - 1 0, - 3 1", 2, vec![0, 2]),
            ("- 1 0, - 2 1, - 3 1", 2, vec![1, 2]),
            ("- 1 0, 7 1 0, - 1 0, 7 3 1", 2, vec![1, 3]),
            ("- - -, - - -, - - -", 2, vec![0, 1]),
            // Three that are not all joined: no two of them across the host, where that can be had.
            ("1 1 0, 1 1 0, - 9 1, 2 2 0, - 3 0", 3, vec![0, 1, 3]),
        ] {
            assert_eq!(closest(&[], &sites(open), count), want, "{open}");
        }
    }

    #[test]
    fn what_is_chosen_already_counts() {
        let open = sites("1 1 0, 1 1 0, 2 2 1, 2 2 1");
        assert_eq!(closest(&sites("2 2 1"), &open, 2), [2, 3]);
        assert_eq!(closest(&sites("- 1 0"), &open, 1), [0]);
    }
}
