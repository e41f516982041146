//! Makes a claim's shares ready: check, share files, CDI spec, checkpoint, answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vgpu_api::{Enforcement, Gpu, Health, MIB, Oversubscription, Priority, Quantity, names};
use vgpu_core::compute;
use vgpu_core::limits::Limits;

use super::State;
use super::quota::Quotas;
use crate::cdi;
use crate::checkpoint::{Checkpoint, PreparedClaim, PreparedShare};
use crate::claim::{ClaimRef, WantedShare, is_same};
use crate::discovery::Discovery;
use crate::error::PrepareError;
use crate::share_files::{self, SharePaths};

impl State {
    /// Prepares a claim, or answers as before if it is prepared. What is there already is checked and made good.
    pub fn prepare(
        &self,
        claim: &ClaimRef,
        wanted: &[WantedShare],
    ) -> Result<Vec<PreparedShare>, PrepareError> {
        claim.check()?;
        let _held = self.held()?;
        let mut checkpoint = self.load()?;
        let discovery = self.discovery.borrow().clone();
        let uid = claim.uid.as_str();
        match checkpoint.claims.get(uid) {
            Some(old) if is_same(old, wanted) => {
                let mut entry = old.clone();
                self.realise(uid, &mut entry, &discovery, &Quotas::of_all(&discovery, &checkpoint))?;
                if checkpoint.claims.get(uid) != Some(&entry) {
                    checkpoint.claims.insert(uid.to_owned(), entry.clone());
                    self.store(&mut checkpoint)?;
                }
                return Ok(entry.shares);
            }
            Some(_) => {
                tracing::warn!(%claim, uid, "it was allocated anew without an Unprepare: its old shares are removed");
                self.undo(&mut checkpoint, uid)?;
            }
            None => {}
        }
        let mut entry = self.plan(&checkpoint, claim, wanted, &discovery)?;
        let before = checkpoint.claims.values().flat_map(|claim| &claim.shares);
        let quotas = Quotas::of(&discovery, before.chain(&entry.shares));
        self.divide(&checkpoint, uid, &quotas)?;
        self.realise(uid, &mut entry, &discovery, &quotas)?;
        let shares = entry.shares.clone();
        checkpoint.claims.insert(uid.to_owned(), entry);
        self.store(&mut checkpoint)?;
        Ok(shares)
    }

    /// The entry of a claim that is not prepared yet, after the last line of defence.
    fn plan(
        &self,
        checkpoint: &Checkpoint,
        claim: &ClaimRef,
        wanted: &[WantedShare],
        discovery: &Discovery,
    ) -> Result<PreparedClaim, PrepareError> {
        let entry = Self::entry(claim, wanted, discovery, &self.node)?;
        let mut asked: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
        for want in wanted {
            let gpu = find(want, discovery, &self.node)?;
            if want.looks_only() {
                continue;
            }
            check_usable(gpu, want, &self.node)?;
            let (memory, cores) = asked.entry(&gpu.uuid).or_default();
            fits(checkpoint, gpu, want, (*memory, *cores))?;
            *memory += firm(want.memory, want.oversubscription);
            *cores += firm(want.cores, want.cores_oversubscription);
        }
        Ok(entry)
    }

    /// What is recorded of a claim. Its ids follow from the claim and the shares alone.
    pub(super) fn entry(
        claim: &ClaimRef,
        wanted: &[WantedShare],
        discovery: &Discovery,
        node: &str,
    ) -> Result<PreparedClaim, PrepareError> {
        let mut shares = Vec::new();
        for want in wanted {
            let gpu = find(want, discovery, node)?;
            let whole = want.memory >= capacity(gpu)
                && matches!(want.cores, 0 | 100)
                && want.oversubscription == Oversubscription::Forbidden
                && want.cores_oversubscription == Oversubscription::Forbidden;
            let exclusive = whole || want.looks_only();
            let mut cdi_ids = vec![cdi::gpu_id(&gpu.uuid)];
            if !exclusive {
                cdi_ids.push(cdi::share_id(&claim.uid, &want.share_id));
            }
            shares.push(PreparedShare {
                request: want.request.clone(),
                device: want.device.clone(),
                uuid: gpu.uuid.clone(),
                share_id: want.share_id.clone(),
                memory: want.memory,
                cores: want.cores,
                enforcement: want.enforcement,
                priority: want.priority,
                oversubscription: want.oversubscription,
                cores_oversubscription: want.cores_oversubscription,
                exclusive,
                cdi_ids,
            });
        }
        Ok(PreparedClaim {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            shares,
            limiter: String::new(),
        })
    }

    /// Makes files and spec of an entry, whatever of them is there already.
    pub(super) fn realise(
        &self,
        uid: &str,
        entry: &mut PreparedClaim,
        discovery: &Arc<Discovery>,
        quotas: &Quotas,
    ) -> Result<(), PrepareError> {
        self.choose_limiter(uid, entry, discovery)?;
        for share in entry.shares.iter().filter(|s| !s.exclusive) {
            let paths = SharePaths::new(&self.paths.share_dir, uid, &share.share_id);
            share_files::ensure(&*self.host, &paths, &self.wanted(&paths, share, quotas))?;
        }
        let folder = self.limiter.folder(&entry.limiter);
        let path = cdi::claim_path(&self.paths.cdi_dir, uid);
        if let Some(spec) = cdi::claim::spec(uid, entry, &self.paths.share_dir, &folder, &discovery.places) {
            // Without a driver at hand (it may be loading) an old spec is better than one without the limiter.
            let known = discovery.places.iter().any(|p| p.soname == cdi::driver::SHIMMED[0].0);
            if known {
                cdi::write(&*self.host, &path, &spec).map_err(|source| PrepareError::Cdi {
                    action: "write",
                    path,
                    source,
                })?;
            } else if !path.exists() {
                let why =
                    [&discovery.limiter_message, &discovery.message].into_iter().find(|m| !m.is_empty());
                let why = why.cloned().unwrap_or_else(|| "the driver's libraries are not known yet".into());
                return Err(PrepareError::Limiter { why });
            }
        }
        Ok(())
    }

    /// A claim keeps the limiter it started with, as long as that is there and so are the share files it was made for:
    /// those made after a reboot are of the present version.
    fn choose_limiter(
        &self,
        uid: &str,
        entry: &mut PreparedClaim,
        discovery: &Discovery,
    ) -> Result<(), PrepareError> {
        if entry.shares.iter().all(|s| s.exclusive) {
            return Ok(());
        }
        let has_files = entry
            .shares
            .iter()
            .any(|s| SharePaths::new(&self.paths.share_dir, uid, &s.share_id).limits.exists());
        if has_files && !entry.limiter.is_empty() && self.limiter.is_there(&entry.limiter) {
            return Ok(());
        }
        let current = discovery.limiter.as_ref().filter(|i| self.limiter.is_there(&i.hash));
        entry.limiter = match current {
            Some(installed) => installed.hash.clone(),
            None => {
                let installed = self.limiter.install(&*self.host);
                installed.map_err(|e| PrepareError::Limiter { why: e.to_string() })?.hash
            }
        };
        Ok(())
    }

    /// Limiters some prepared claim names.
    pub(super) fn used_limiters(checkpoint: &Checkpoint) -> BTreeSet<&str> {
        checkpoint.claims.values().map(|c| c.limiter.as_str()).filter(|h| !h.is_empty()).collect()
    }
}

/// What the limiter is told of a share.
pub(super) fn limits(share: &PreparedShare, quotas: &Quotas) -> Limits {
    let enforcement = match share.enforcement {
        Enforcement::Hard => compute::Enforcement::Hard,
        Enforcement::Elastic => compute::Enforcement::Elastic,
        Enforcement::None => compute::Enforcement::None,
    };
    let priority = match share.priority {
        Priority::High => compute::Priority::High,
        Priority::Normal => compute::Priority::Normal,
        Priority::Low => compute::Priority::Low,
    };
    let resident = quotas.resident(share);
    Limits { memory: share.memory, cores: share.cores, overhead: 0, enforcement, priority, resident }
}

fn find<'a>(want: &WantedShare, discovery: &'a Discovery, node: &str) -> Result<&'a Gpu, PrepareError> {
    discovery.gpus.iter().find(|g| names::device(&g.uuid) == want.device).ok_or_else(|| {
        let message = &discovery.message;
        let why = if message.is_empty() { "the node has no such GPU".into() } else { message.clone() };
        PrepareError::Device { device: want.device.clone(), node: node.to_owned(), why }
    })
}

fn check_usable(gpu: &Gpu, want: &WantedShare, node: &str) -> Result<(), PrepareError> {
    let why = match gpu.health {
        _ if !gpu.unpublished.is_empty() => gpu.unpublished.clone(),
        Health::Unhealthy => format!("the GPU is unhealthy: {}", gpu.health_message),
        Health::Healthy => return Ok(()),
    };
    Err(PrepareError::Device { device: want.device.clone(), node: node.to_owned(), why })
}

pub(super) fn capacity(gpu: &Gpu) -> u64 {
    u64::try_from(gpu.memory_mib).unwrap_or(0).saturating_mul(MIB)
}

/// What of an amount of memory or cores is there for certain. Memory that may move takes what others leave, and cores that may
/// be promised twice what others do not use; how much of both may be promised is the admin's to say and the controller's to
/// see to.
fn firm<T: Default>(amount: T, oversubscription: Oversubscription) -> T {
    match oversubscription {
        Oversubscription::Forbidden => amount,
        Oversubscription::Allowed => T::default(),
    }
}

/// Whether a share fits beside what is prepared on its GPU and what the claim itself already asked of it.
fn fits(checkpoint: &Checkpoint, gpu: &Gpu, want: &WantedShare, own: (u64, u32)) -> Result<(), PrepareError> {
    let (mut memory, mut cores) = own;
    let mut holders: BTreeSet<String> = BTreeSet::new();
    for (_, claim, share) in checkpoint.shares_on(&gpu.uuid, "").filter(|(.., s)| !s.looks_only()) {
        memory = memory.saturating_add(firm(share.memory, share.oversubscription));
        cores = cores.saturating_add(firm(share.cores, share.cores_oversubscription));
        holders.insert(format!("{}/{}", claim.namespace, claim.name));
    }
    let holders = if holders.is_empty() {
        "the claim's other requests".to_owned()
    } else {
        holders.into_iter().collect::<Vec<_>>().join(", ")
    };
    let refuse = |what, need, free| {
        Err(PrepareError::Overcommitted {
            device: want.device.clone(),
            what,
            need,
            free,
            holders: holders.clone(),
        })
    };
    let free = capacity(gpu).saturating_sub(memory);
    let need = firm(want.memory, want.oversubscription);
    if need > free {
        return refuse("memory", Quantity::bytes(need).to_string(), Quantity::bytes(free).to_string());
    }
    let free = 100u32.saturating_sub(cores);
    let need = firm(want.cores, want.cores_oversubscription);
    if need > free {
        return refuse("cores", need.to_string(), free.to_string());
    }
    Ok(())
}
