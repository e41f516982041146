//! Real processes on one fake GPU: what they share, and what a killed one leaves.

mod node;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use node::{MIB, Node, T4, until};

fn number(line: &serde_json::Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[test]
fn a_program_gets_all_but_the_reserved_memory_and_not_a_byte_more() {
    let node = Node::new("T4");
    let line = node.workload(&["allocate", "--until-oom"]).line();
    assert_eq!((number(&line, "bytes"), &line["error"]), (T4, &"CUDA_ERROR_OUT_OF_MEMORY".into()));
    assert_eq!((number(&line, "free"), number(&line, "total")), (0, T4));
}

#[test]
fn a_fixed_amount_that_does_not_fit_has_an_exit_status_of_its_own() {
    let node = Node::new("T4");
    let (status, errors) = node.workload(&["allocate", "--bytes", "15105Mi"]).end();
    assert_eq!(
        (status.code(), errors.as_str()),
        (Some(3), "vgpu-workload: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY\n")
    );
    let (status, _) = node.workload(&["allocate", "--bytes", "15104Mi"]).end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_killed_process_gives_its_memory_back() {
    let node = Node::new("T4");
    let mut holder = node.workload(&["allocate", "--bytes", "10000Mi", "--hold"]);
    holder.line();
    let refused = number(&node.workload(&["allocate"]).line(), "bytes");
    assert_eq!(refused, T4 - 10_000 * MIB);
    holder.kill();
    assert_eq!(number(&node.workload(&["allocate"]).line(), "bytes"), T4);
}

#[test]
fn eight_programs_that_race_for_the_memory_get_exactly_all_of_it() {
    let node = Node::new("T4");
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + 0.5;
    let args = ["allocate", "--hold", "forever", "--start-at", &moment.to_string()];
    let mut racers: Vec<_> = (0..8).map(|_| node.workload(&args)).collect();
    let sum: u64 = racers.iter_mut().map(|racer| number(&racer.line(), "bytes")).sum();
    assert_eq!(sum, T4);
}

#[test]
fn programs_that_wait_for_a_file_begin_once_it_is_there() {
    let node = Node::new("T4");
    let file = node.path("go");
    let mut waiting =
        node.workload(&["allocate", "--mib", "5", "--hold", "--start-after", file.to_str().unwrap()]);
    until("a context", || !node.gpus().status_of(0).processes.is_empty());
    assert_eq!(node.gpus().status_of(0).used, 0);
    std::fs::write(file, "").unwrap();
    assert_eq!(number(&waiting.line(), "bytes"), 5 * MIB);
}

#[test]
fn true_busy_time_is_the_sum_of_the_kernels() {
    let node = Node::new("T4");
    let line = node.workload(&["spin", "--kernel-ms", "5", "--seconds", "1"]).line();
    let kernels = number(&line, "kernels");
    assert!((150..=265).contains(&kernels), "{line}");
    assert_eq!(number(&line, "gpuNanos"), kernels * 5_000_000);
    assert_eq!(node.gpus().busy_nanos(&node.uuid(0)).unwrap(), kernels * 5_000_000);
    // A saturated GPU has no gaps.
    let elapsed = number(&line, "elapsedGpuNanos") as f64;
    assert!((elapsed / (kernels * 5_000_000) as f64 - 1.0).abs() < 0.1, "{line}");
}

#[test]
fn a_busy_gpu_costs_no_cpu() {
    let node = Node::new("T4");
    let spinner = node.workload(&["spin", "--kernel-ms", "50"]);
    until("utilisation of 100 %", || node.gpus().status_of(0).utilization == 100);
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", spinner.id())).unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    // Of 100 ticks of a core.
    assert!(ticks() - before <= 10, "{} ticks", ticks() - before);
}

#[test]
fn two_programs_with_equal_kernels_share_the_gpu_evenly() {
    let node = Node::new("T4");
    let args = ["spin", "--kernel-micros", "2000", "--depth", "500"];
    let _spinners = [node.workload(&args), node.workload(&args)];
    let busy = || -> Vec<(u32, u64)> {
        node.gpus().status_of(0).processes.iter().map(|p| (p.pid, p.busy_nanos)).collect()
    };
    until("both run", || busy().iter().filter(|(_, nanos)| *nanos > 0).count() == 2);
    let before = busy();
    std::thread::sleep(Duration::from_millis(1_500));
    let after = busy();
    let gained: Vec<f64> = after.iter().zip(&before).map(|(a, b)| (a.1 - b.1) as f64).collect();
    let share = gained[0] / gained.iter().sum::<f64>();
    assert!((0.45..=0.55).contains(&share), "{share}");
}

#[test]
fn the_queue_of_a_killed_process_is_dropped() {
    let node = Node::new("T4");
    // Minutes of work.
    let hog = node.workload(&["spin", "--kernel-ms", "1000", "--depth", "1000"]);
    until("the hog runs", || node.gpus().status_of(0).busy_nanos > 0);
    std::thread::sleep(Duration::from_millis(300));
    hog.kill();
    let start = Instant::now();
    let line = node.workload(&["spin", "--kernel-ms", "1", "--seconds", "0.1", "--pattern", "sync"]).line();
    assert!(
        number(&line, "kernels") > 0 && start.elapsed() < Duration::from_secs(4),
        "{:?} {line}",
        start.elapsed()
    );
    assert!(node.gpus().busy_nanos(&node.uuid(0)).unwrap() < 4_000_000_000);
}

#[test]
fn killing_programs_at_any_moment_leaves_the_gpu_whole() {
    let node = Node::new("T4");
    let mut bystander =
        node.workload(&["spin", "--kernel-micros", "50", "--seconds", "2", "--pattern", "sync"]);
    for round in 0..40u64 {
        let args = match round % 2 {
            0 => &["spin", "--kernel-micros", "20", "--depth", "8"][..],
            _ => &["allocate", "--chunk", "4Ki"],
        };
        let victim = node.workload(args);
        std::thread::sleep(Duration::from_micros(1_000 + round * 700));
        victim.kill();
    }
    assert!(number(&bystander.line(), "kernels") > 100);
    bystander.end();
    let status = node.gpus().status_of(0);
    assert_eq!((status.used, status.processes.len()), (0, 0));
    assert_eq!(number(&node.workload(&["allocate"]).line(), "bytes"), T4);
}

#[test]
fn a_program_sees_the_gpus_whose_device_nodes_it_has() {
    let node = Node::new("T4x2,A10G");
    std::fs::remove_file(node.path("dev/nvidia0")).unwrap();
    let mut info = node.workload(&["info"]);
    let (first, second) = (info.line(), info.line());
    assert_eq!((&first["device"], first["uuid"].as_str()), (&0.into(), Some(node.uuid(1).as_str())));
    assert_eq!((&second["name"], number(&first, "deviceTotal")), (&"NVIDIA A10G".into(), T4));
    let (status, errors) = info.end();
    assert!(status.success() && errors.is_empty(), "{errors}");
}

#[test]
fn without_a_gpu_cuda_says_so() {
    let node = Node::new("T4");
    std::fs::remove_file(node.path("dev/nvidia0")).unwrap();
    let (status, errors) = node.workload(&["info"]).end();
    assert_eq!((status.code(), errors.as_str()), (Some(1), "vgpu-workload: cuInit: CUDA_ERROR_NO_DEVICE\n"));
}

#[test]
fn sigterm_ends_every_program_at_once_and_spin_says_what_it_did() {
    let node = Node::new("T4");
    for args in [&["sleep"][..], &["allocate", "--mib", "1", "--hold"], &["spin", "--kernel-ms", "2"]] {
        let mut running = node.workload(args);
        match args[0] {
            "sleep" => std::thread::sleep(Duration::from_millis(200)),
            "allocate" => drop(running.line()),
            _ => until("a kernel", || node.gpus().status_of(0).busy_nanos > 0),
        }
        let start = Instant::now();
        running.terminate();
        if args[0] == "spin" {
            assert!(number(&running.line(), "kernels") > 0);
        }
        assert_eq!(running.end().0.code(), Some(0), "{args:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{args:?}: {:?}", start.elapsed());
    }
}
