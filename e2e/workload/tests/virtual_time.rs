//! Real processes in virtual time: as fast as they compute, and the same every time.

mod node;

use std::time::{Duration, Instant};

use node::{Node, Running, until};

fn described(time: &str) -> Node {
    Node::described(&format!("gpus: [{{model: T4}}]\ntime: {{mode: virtual, {time}}}"))
}

/// Starts a program whose threads of those due at once come first if its rank is low.
fn start(node: &Node, rank: u32, args: &[&str]) -> Running {
    let mut command = node.command(env!("CARGO_BIN_EXE_vgpu-workload"), args);
    command.env("FAKE_GPU_RANK", rank.to_string());
    Running::start(command)
}

/// Kernels, GPU time spent, GPU time passed.
fn result(running: &mut Running) -> [u64; 3] {
    let line = running.line();
    ["kernels", "gpuNanos", "elapsedGpuNanos"].map(|key| line[key].as_u64().unwrap())
}

#[test]
fn minutes_of_gpu_time_pass_in_no_time() {
    let node = described("participants: 1");
    let begin = Instant::now();
    let mut running = start(&node, 0, &["spin", "--kernel-ms", "1000", "--kernels", "300"]);
    assert_eq!(result(&mut running)[..2], [300, 300_000_000_000]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_eq!(node.gpus().busy_nanos(&node.uuid(0)).unwrap(), 300_000_000_000);
}

#[test]
fn neighbours_share_by_slices_to_the_nanosecond_every_time() {
    let play = || {
        let node = described("participants: 2, sliceMicros: 1000, switchMicros: 50");
        let mut one = start(&node, 1, &["spin", "--lengths-micros", "50,4000", "--kernels", "400"]);
        let mut other = start(&node, 2, &["spin", "--kernel-micros", "100", "--kernels", "3000", "--sync"]);
        let results = (result(&mut one), result(&mut other));
        let (_, _) = (one.end(), other.end());
        let status = node.gpus().status_of(0);
        (results, status.busy_nanos, status.switching_nanos)
    };
    let first = play();
    assert_eq!(first.0.0[..2], [400, 200 * 4_050_000]);
    assert_eq!(first.1, 200 * 4_050_000 + 3_000 * 100_000);
    // Alone they would take 810 and some 340 milliseconds; beside each other both take longer.
    assert!(first.0.0[2] > 900_000_000 && first.0.1[2] > 1_000_000_000, "{first:?}");
    for _ in 0..3 {
        assert_eq!(play(), first);
    }
}

#[test]
fn a_programs_own_clock_can_be_the_gpus() {
    let node = described("participants: 2");
    let play = |node: &Node| {
        let programs = [(1, "--kernel-ms=20"), (2, "--kernel-micros=1000")].map(|(rank, length)| {
            let mut command = node.command(
                env!("CARGO_BIN_EXE_vgpu-workload"),
                &["spin", length, "--seconds", "20", "--depth", "4"],
            );
            command.env("FAKE_GPU_RANK", rank.to_string()).env("FAKE_GPU_FILE", node.path("gpus"));
            command.env("LD_PRELOAD", Node::artifact("libfake_time.so"));
            Running::start(command)
        });
        programs.map(|mut program| {
            let line = program.line();
            assert!(program.end().0.success());
            (line["kernels"].as_u64().unwrap(), line["seconds"].as_f64().unwrap())
        })
    };
    let begin = Instant::now();
    let [(long, seconds), (short, others)] = play(&node);
    assert!((20.0..20.3).contains(&seconds) && (20.0..20.3).contains(&others), "{seconds} {others}");
    // Half of the time each, less what changing between them takes.
    assert!((430..=520).contains(&long) && (8_600..=10_400).contains(&short), "{long} {short}");
    assert_eq!(play(&described("participants: 2")), [(long, seconds), (short, others)]);
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
}

#[test]
fn a_killed_participant_does_not_stop_the_time() {
    let node = described("participants: 2");
    let mut one = start(&node, 1, &["spin", "--kernel-micros", "500", "--kernels", "40000", "--sync"]);
    let other = start(&node, 2, &["spin", "--kernel-ms", "50"]);
    until("both run", || {
        let processes = node.gpus().status_of(0).processes;
        processes.len() == 2 && processes.iter().all(|p| p.busy_nanos > 0)
    });
    other.kill();
    assert_eq!(result(&mut one)[0], 40_000);
    assert_eq!(node.gpus().status_of(0).used, 0);
}

#[test]
fn without_time_everything_is_over_at_once() {
    let node = Node::described("gpus: [{model: T4}]\ntime: {mode: none}");
    let begin = Instant::now();
    let mut running = node.workload(&["spin", "--kernel-ms", "100000", "--kernels", "100000"]);
    assert_eq!(running.line()["kernels"], 100_000);
    assert!(begin.elapsed() < Duration::from_secs(20));
}
