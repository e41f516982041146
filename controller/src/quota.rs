//! Pure: what the claims of a namespace may hold together, by the hard keys of its ResourceQuotas, and what they hold.
//!
//! | key | sums up |
//! |---|---|
//! | `requests.vgpu-dra.io/memory` | bytes of GPU memory |
//! | `requests.vgpu-dra.io/cores`  | percent of a GPU; a GPU that is held whole counts 100 |
//!
//! | `limits.nvidia.com/gpumem`    | mebibytes of GPU memory, if HAMi's keys are read too |
//! | `limits.nvidia.com/gpucores`  | percent of a GPU, if HAMi's keys are read too |
//!
//! Kubernetes' own quota counts what a claim asks for, and by class only; these are amounts of the GPU that was chosen, so
//! that a percentage or a whole GPU counts as what it is. A quota with scopes is about certain pods, and claims have none
//! of a pod's properties: it is left out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt;
use vgpu_allocator::Share;
use vgpu_api::names::{HAMI_QUOTA_CORES, HAMI_QUOTA_MEMORY, QUOTA_CORES, QUOTA_MEMORY};
use vgpu_api::{MIB, Quantity};

/// What a hard key sums up.
#[derive(Debug, Clone, Copy)]
enum Sum {
    Bytes,
    Mebibytes,
    Cores,
}

const OWN: [(&str, Sum); 2] = [(QUOTA_MEMORY, Sum::Bytes), (QUOTA_CORES, Sum::Cores)];
const HAMI: [(&str, Sum); 2] = [(HAMI_QUOTA_MEMORY, Sum::Mebibytes), (HAMI_QUOTA_CORES, Sum::Cores)];

impl Sum {
    fn of(self, amounts: Amounts) -> Quantity {
        match self {
            Self::Bytes => Quantity::bytes(small(amounts.memory)),
            Self::Mebibytes => Quantity::count(small(amounts.memory.div_ceil(MIB.into()))),
            Self::Cores => Quantity::count(small(amounts.cores)),
        }
    }
}

/// What is summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Bytes.
    memory: u128,
    /// Percent of a GPU.
    cores: u128,
}

impl Amounts {
    fn add(&mut self, more: Self) {
        self.memory += more.memory;
        self.cores += more.cores;
    }
}

/// One hard key of a quota.
#[derive(Debug)]
struct Hard {
    quota: String,
    key: &'static str,
    sum: Sum,
    limit: Quantity,
}

/// A hard key that would be exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    quota: String,
    key: &'static str,
    used: Quantity,
    asked: Quantity,
    hard: Quantity,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quota, key, used, asked, hard } = self;
        write!(
            f,
            "ResourceQuota {quota}: spec.hard[{key}] is {hard}, the namespace's claims hold {used} and this pod asks for {asked} \
             more; ask for less, wait until other pods end, or raise the quota"
        )
    }
}

/// Quotas and use of all namespaces that have such a quota.
#[derive(Debug, Default)]
pub struct Quotas {
    hard: BTreeMap<String, Vec<Hard>>,
    used: HashMap<String, Amounts>,
    /// Memory of each GPU, to know when it is held whole.
    whole: HashMap<String, u64>,
}

impl Quotas {
    /// Of these quotas, by HAMi's keys too if `hami`; nothing is held yet. `gpus`: each GPU's name and memory.
    pub fn new<'a>(
        quotas: impl IntoIterator<Item = &'a ResourceQuota>,
        hami: bool,
        gpus: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Self {
        let mut hard: BTreeMap<String, Vec<Hard>> = BTreeMap::new();
        let keys = if hami { [&OWN[..], &HAMI[..]].concat() } else { OWN.to_vec() };
        for quota in quotas {
            let Some(spec) = &quota.spec else { continue };
            let scoped = spec.scopes.as_ref().is_some_and(|s| !s.is_empty()) || spec.scope_selector.is_some();
            for (key, sum) in keys.iter().copied().filter(|_| !scoped) {
                let Some(limit) = spec.hard.as_ref().and_then(|h| h.get(key)).and_then(|q| q.0.parse().ok())
                else {
                    continue;
                };
                let namespace = quota.namespace().unwrap_or_default();
                hard.entry(namespace).or_default().push(Hard { quota: quota.name_any(), key, sum, limit });
            }
        }
        hard.values_mut().for_each(|list| list.sort_by(|a, b| (&a.quota, a.key).cmp(&(&b.quota, b.key))));
        let none = hard.is_empty();
        let whole =
            gpus.into_iter().filter(|_| !none).map(|(name, memory)| (name.to_owned(), memory)).collect();
        Self { hard, used: HashMap::new(), whole }
    }

    /// Whether anything limits this namespace; if not, nothing of it needs to be counted.
    pub fn limit(&self, namespace: &str) -> bool {
        self.hard.contains_key(namespace)
    }

    /// Counts shares of a claim of this namespace.
    pub fn hold<'a>(&mut self, namespace: &str, shares: impl IntoIterator<Item = &'a Share>) {
        if self.limit(namespace) {
            let more = self.amounts(shares);
            self.used.entry(namespace.to_owned()).or_default().add(more);
        }
    }

    /// Takes back what was counted.
    pub fn release<'a>(&mut self, namespace: &str, shares: impl IntoIterator<Item = &'a Share>) {
        let less = self.amounts(shares);
        if let Some(used) = self.used.get_mut(namespace) {
            used.memory = used.memory.saturating_sub(less.memory);
            used.cores = used.cores.saturating_sub(less.cores);
        }
    }

    /// The first key that these shares would exceed.
    pub fn exceeded<'a>(
        &self,
        namespace: &str,
        shares: impl IntoIterator<Item = &'a Share>,
    ) -> Option<Exceeded> {
        let hard = self.hard.get(namespace)?;
        let used = self.used.get(namespace).copied().unwrap_or_default();
        let asked = self.amounts(shares);
        let mut sum = used;
        sum.add(asked);
        // Who asks for nothing of it cannot exceed it, also when the quota was lowered below what is held.
        let over = |h: &&Hard| h.sum.of(asked).nano() > 0 && h.sum.of(sum) > h.limit;
        hard.iter().find(over).map(|h| Exceeded {
            quota: h.quota.clone(),
            key: h.key,
            used: h.sum.of(used),
            asked: h.sum.of(asked),
            hard: h.limit,
        })
    }

    fn amounts<'a>(&self, shares: impl IntoIterator<Item = &'a Share>) -> Amounts {
        let mut sum = Amounts::default();
        for share in shares {
            let whole = share.cores == 0 && self.whole.get(&share.gpu) == Some(&share.memory);
            let cores = if whole { 100 } else { share.cores };
            sum.add(Amounts { memory: share.memory.into(), cores: cores.into() });
        }
        sum
    }
}

fn small(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GPU: u64 = 15_104 * MIB;

    fn quota(name: &str, spec: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "team"}, "spec": spec}))
            .unwrap()
    }

    fn share(mib: u64, cores: u32) -> Share {
        let oversubscribed = Default::default();
        Share { node: "n".into(), gpu: "gpu-a".into(), memory: mib * MIB, cores, oversubscribed }
    }

    fn quotas(list: &[ResourceQuota]) -> Quotas {
        Quotas::new(list, false, [("gpu-a", GPU)])
    }

    fn hard(memory: &str, cores: &str) -> serde_json::Value {
        json!({"hard": {QUOTA_MEMORY: memory, QUOTA_CORES: cores, "pods": "3"}})
    }

    #[test]
    fn up_to_the_limit_fits_and_one_more_does_not() {
        let mut quotas = quotas(&[quota("gpus", hard("10000Mi", "100"))]);
        quotas.hold("team", &[share(4000, 30)]);
        assert_eq!(quotas.exceeded("team", &[share(6000, 70)]), None);
        let over = quotas.exceeded("team", &[share(6001, 70)]).unwrap().to_string();
        let want = "ResourceQuota gpus: spec.hard[requests.vgpu-dra.io/memory] is 10000Mi, the namespace's claims hold 4000Mi \
                    and this pod asks for 6001Mi more; ask for less, wait until other pods end, or raise the quota";
        assert_eq!(over, want);
        let over = quotas.exceeded("team", &[share(1, 71)]).unwrap().to_string();
        assert!(
            over.contains("spec.hard[requests.vgpu-dra.io/cores] is 100, the namespace's claims hold 30"),
            "{over}"
        );
    }

    #[test]
    fn a_whole_gpu_counts_all_its_cores() {
        let quotas = quotas(&[quota("gpus", hard("1Ti", "150"))]);
        assert_eq!(quotas.exceeded("team", &[share(15_104, 0)]), None);
        assert!(quotas.exceeded("team", &[share(15_104, 0), share(15_104, 0)]).is_some());
        assert_eq!(quotas.exceeded("team", &[share(15_000, 0), share(15_000, 0)]), None);
    }

    #[test]
    fn other_namespaces_and_quotas_with_scopes_do_not_limit() {
        let scoped = json!({"hard": {QUOTA_MEMORY: "1"}, "scopes": ["NotTerminating"]});
        let by_selector = json!({"hard": {QUOTA_MEMORY: "1"}, "scopeSelector": {"matchExpressions": []}});
        let quotas = quotas(&[quota("a", scoped), quota("b", by_selector)]);
        assert!(!quotas.limit("team"));
        assert_eq!(quotas.exceeded("team", &[share(1, 0)]), None);
    }

    #[test]
    fn hamis_keys_limit_in_mebibytes_where_they_are_read() {
        let list = [quota("gpus", json!({"hard": {HAMI_QUOTA_MEMORY: "5000", HAMI_QUOTA_CORES: "60"}}))];
        assert!(!Quotas::new(&list, false, [("gpu-a", GPU)]).limit("team"));
        let mut quotas = Quotas::new(&list, true, [("gpu-a", GPU)]);
        quotas.hold("team", &[share(3000, 30)]);
        assert_eq!(quotas.exceeded("team", &[share(2000, 30)]), None);
        let over = quotas.exceeded("team", &[share(2001, 30)]).unwrap().to_string();
        let words = "spec.hard[limits.nvidia.com/gpumem] is 5k, the namespace's claims hold 3k and this pod asks for 2001";
        assert!(over.contains(words), "{over}");
        assert!(quotas.exceeded("team", &[share(1, 31)]).is_some());
    }

    #[test]
    fn of_several_quotas_the_narrowest_holds() {
        let quotas = quotas(&[quota("wide", hard("1Ti", "900")), quota("narrow", hard("1Gi", "900"))]);
        assert!(
            quotas
                .exceeded("team", &[share(1025, 0)])
                .unwrap()
                .to_string()
                .starts_with("ResourceQuota narrow:")
        );
    }

    #[test]
    fn a_quota_below_what_is_held_refuses_only_more_of_it() {
        let mut quotas = quotas(&[quota("gpus", hard("1Gi", "100"))]);
        quotas.hold("team", &[share(2048, 10)]);
        assert_eq!(quotas.exceeded("team", &[share(0, 10)]), None);
        assert!(quotas.exceeded("team", &[share(1, 0)]).is_some());
    }
}
