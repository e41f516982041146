//! Schedulers that are compared: this engine under its policies, and FGD.

use vgpu_allocator::trace::{Pod, Replay};

/// Places pods and takes them back.
pub(crate) trait Scheduler {
    /// False if the pod fits nowhere.
    fn place(&mut self, id: usize, pod: &Pod) -> bool;
    /// A placed pod is gone.
    fn remove(&mut self, id: usize, pod: &Pod);
}

impl Scheduler for Replay {
    fn place(&mut self, id: usize, pod: &Pod) -> bool {
        self.place(id, pod).is_ok()
    }

    fn remove(&mut self, id: usize, _: &Pod) {
        self.remove(id);
    }
}
