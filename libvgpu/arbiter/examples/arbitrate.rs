//! Arbitrates between shares of one GPU, named by their folders, until its input ends: the node's plugin in small, for
//! trying the limiter on a machine without Kubernetes (`e2e/gpu`).

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use vgpu_arbiter::seat::Files;
use vgpu_arbiter::{Arbitration, Clock, Member, Monotonic};

/// Between two looks at whether the input has ended.
const LOOK: u64 = 100_000_000;

fn main() -> ExitCode {
    let members: Vec<Member> = std::env::args()
        .skip(1)
        .map(|folder| {
            let at = |name| Path::new(&folder).join(name);
            let files = Files { limits: at("limits"), usage: at("usage"), bell: at("bell") };
            Member { gpu: "the only one".into(), name: folder.clone(), files, oversubscribed: false }
        })
        .collect();
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut clock = Monotonic::of_this_thread();
    let mut arbitration = Arbitration::default();
    if let Some((member, error)) = arbitration.set(clock.now(), members).first() {
        eprintln!("{}: {error}", member.name);
        return ExitCode::FAILURE;
    }
    while !ended.is_finished() {
        let until = clock.now().saturating_add(LOOK);
        arbitration.round(&mut clock, &[], until);
    }
    arbitration.release(&mut clock);
    ExitCode::SUCCESS
}
