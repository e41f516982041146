//! What [`Cluster::plan`] answers, by looking at every node: the definition the indexes are tested and measured against.

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::fill::Fill;
use crate::placement::{Placement, Refusal};
use crate::plan::node_reason;
use crate::policy::{Policy, Rank};
use crate::vacancy::Vacancy;

impl Cluster {
    /// The same answer as [`Cluster::plan`] in time linear in nodes.
    ///
    /// # Errors
    /// The same [`Refusal`].
    pub fn plan_exhaustively(&self, demand: &Demand) -> Result<Placement, Refusal> {
        let derived = self.derived();
        let mut best: Option<(Rank, Placement)> = None;
        for (name, node) in &self.nodes {
            let taken = self.taken(name);
            if node_reason(name, node, taken, demand).is_some() {
                continue;
            }
            let judge = derived.fragmentation.judge(name, demand);
            let fill = Fill::new(node, taken, demand.parts(), judge.as_ref());
            let Some((shares, fullness)) = fill.run() else { continue };
            let rank = match derived.fragmentation.score(self, name, demand) {
                Some(score) if demand.node_policy == Policy::LeastFragmentation => (score, 0),
                _ => demand.node_policy.rank(fullness),
            };
            // Nodes come in the order of their names: an equal one that comes later does not win.
            if best.as_ref().is_none_or(|(b, _)| rank > *b) {
                best = Some((rank, Placement { node: name.clone(), shares, score: fullness.used }));
            }
        }
        best.map(|(_, placement)| placement).ok_or_else(|| self.refuse_exhaustively(demand))
    }

    fn refuse_exhaustively(&self, demand: &Demand) -> Refusal {
        let mut refusal = Refusal::default();
        for (name, node) in self.nodes.iter().filter(|(_, n)| !n.gpus.is_empty()) {
            refusal.gpus += node.gpus.len() as u32;
            match node_reason(name, node, self.taken(name), demand) {
                Some(reason) => *refusal.node_reasons.entry(reason).or_default() += 1,
                None => {
                    Vacancy::of_node(node, self.taken(name)).for_each(|v| refusal.add_gpus(&v, 1, demand))
                }
            }
        }
        refusal.name_joined(demand);
        refusal
    }
}
