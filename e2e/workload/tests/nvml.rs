//! NVML as nvml-wrapper and nvidia-smi use it.

mod node;

use std::time::Duration;

use fake_gpu::OFF_THE_BUS;
use node::{MIB, Node, T4, until};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

/// A library of its own per test: each driver root is another file.
fn nvml(node: &Node) -> Nvml {
    Nvml::builder().lib_path(node.path("lib/libnvidia-ml.so.1").as_os_str()).init().unwrap()
}

#[test]
fn a_gpu_says_what_it_is() {
    let node = Node::new("A100-80GBx1");
    let nvml = nvml(&node);
    assert_eq!((nvml.device_count().unwrap(), nvml.sys_cuda_driver_version().unwrap()), (1, 12_040));
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!((gpu.name().unwrap(), gpu.uuid().unwrap()), ("NVIDIA A100-SXM4-80GB".into(), node.uuid(0)));
    let compute = gpu.cuda_compute_capability().unwrap();
    assert_eq!((compute.major, compute.minor, gpu.minor_number().unwrap()), (8, 0, 0));
    assert_eq!((gpu.num_cores().unwrap(), gpu.pci_info().unwrap().bus_id), (6912, "00000000:10:00.0".into()));
    assert!(gpu.brand().is_ok() && gpu.architecture().is_ok() && gpu.compute_mode().is_ok());
    let memory = gpu.memory_info().unwrap();
    assert_eq!((memory.total, memory.reserved, memory.used), (81_920 * MIB, 688 * MIB, 0));
    assert!(matches!(gpu.mig_mode(), Err(NvmlError::NotSupported)));
    assert_eq!(nvml.device_by_uuid(node.uuid(0)).unwrap().index().unwrap(), 0);
    assert_eq!(nvml.device_by_pci_bus_id("0000:10:00.0").unwrap().index().unwrap(), 0);
    assert!(matches!(nvml.device_by_uuid("GPU-none"), Err(NvmlError::NotFound)));
}

#[test]
fn gpus_know_how_far_apart_they_are() {
    let node = Node::new("T4x4");
    let nvml = nvml(&node);
    let first = nvml.device_by_index(0).unwrap();
    let level = |other: u32| first.topology_common_ancestor(nvml.device_by_index(other).unwrap()).unwrap();
    assert_eq!(
        [level(1), level(2), level(3)],
        [TopologyLevel::HostBridge, TopologyLevel::System, TopologyLevel::System]
    );
}

#[test]
fn processes_and_their_memory_are_listed_while_they_live() {
    let node = Node::new("T4x2");
    let nvml = nvml(&node);
    let gpu = nvml.device_by_index(0).unwrap();
    let mut holder = node.workload(&["allocate", "--mib", "300", "--hold"]);
    holder.line();
    let [process] = &gpu.running_compute_processes().unwrap()[..] else { panic!("not one process") };
    assert_eq!(process.pid, holder.id());
    assert!(matches!(process.used_gpu_memory, UsedGpuMemory::Used(bytes) if bytes == 300 * MIB));
    assert_eq!(gpu.memory_info().unwrap().free, T4 - 300 * MIB);
    assert!(nvml.device_by_index(1).unwrap().running_compute_processes().unwrap().is_empty());
    holder.kill();
    assert!(gpu.running_compute_processes().unwrap().is_empty());
    assert_eq!(gpu.memory_info().unwrap().free, T4);
}

#[test]
fn utilisation_follows_the_kernels_of_the_last_second() {
    let node = Node::new("T4");
    let nvml = nvml(&node);
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.utilization_rates().unwrap().gpu, 0);
    let spinner = node.workload(&["spin", "--kernel-ms", "10"]);
    until("utilisation of 100 %", || gpu.utilization_rates().unwrap().gpu == 100);
    let samples = gpu.process_utilization_stats(None).unwrap();
    assert_eq!(samples.iter().map(|s| (s.pid, s.sm_util)).collect::<Vec<_>>(), [(spinner.id(), 100)]);
    spinner.kill();
    until("utilisation of 0 %", || gpu.utilization_rates().unwrap().gpu == 0);
}

#[test]
fn an_xid_reaches_those_who_registered_even_if_nobody_waited() {
    let node = Node::new("T4x2");
    let nvml = nvml(&node);
    node.gpus().set_xid(&node.uuid(0), 31).unwrap();
    let set = nvml.create_event_set().unwrap();
    let set = nvml.device_by_index(0).unwrap().register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    node.gpus().set_xid(&node.uuid(1), 48).unwrap();
    node.gpus().set_xid(&node.uuid(0), 63).unwrap();
    node.gpus().set_xid(&node.uuid(0), OFF_THE_BUS).unwrap();
    let xid = || match set.wait(1_000).unwrap().event_data {
        Some(XidError::Value(xid)) => xid,
        other => panic!("{other:?}"),
    };
    assert_eq!([xid(), xid()], [63, OFF_THE_BUS.into()]);
    let raised = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            node.gpus().set_xid(&node.uuid(0), 45).unwrap();
        });
        xid()
    });
    assert_eq!(raised, 45);
}

#[test]
fn a_gpu_off_the_bus_is_lost_and_one_that_is_mended_is_back() {
    let node = Node::new("T4x2");
    let nvml = nvml(&node);
    let gpu = nvml.device_by_index(0).unwrap();
    node.gpus().set_xid(&node.uuid(0), OFF_THE_BUS).unwrap();
    assert!(matches!(gpu.name(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(0), Err(NvmlError::GpuLost)));
    assert!(nvml.device_by_index(1).is_ok());
    let smi = node.smi(&["-L"]);
    assert_eq!(smi.status.code(), Some(15));
    node.gpus().set_xid(&node.uuid(0), 0).unwrap();
    assert_eq!(gpu.name().unwrap(), "Tesla T4");
}

#[track_caller]
fn printed(node: &Node, args: &[&str]) -> String {
    let output = node.smi(args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nvidia_smi_lists_and_queries() {
    let node = Node::new("T4x2");
    let (one, two) = (node.uuid(0), node.uuid(1));
    assert_eq!(
        printed(&node, &["-L"]),
        format!("GPU 0: Tesla T4 (UUID: {one})\nGPU 1: Tesla T4 (UUID: {two})\n")
    );
    let query =
        "--query-gpu=index,uuid,name,memory.total,memory.used,memory.free,utilization.gpu,driver_version";
    let header = "index, uuid, name, memory.total [MiB], memory.used [MiB], memory.free [MiB], utilization.gpu [%], driver_version\n";
    let line = |index: u32, uuid: &str| {
        format!("{index}, {uuid}, Tesla T4, 15360 MiB, 0 MiB, 15104 MiB, 0 %, 550.163.01\n")
    };
    let all = format!("{header}{}{}", line(0, &one), line(1, &two));
    assert_eq!(printed(&node, &[query, "--format=csv"]), all);
    assert_eq!(printed(&node, &[query, "--format=csv,noheader", "-i", &two]), line(1, &two));
    let bare = printed(&node, &["--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]);
    assert_eq!(bare, "15360\n");
}

#[test]
fn nvidia_smi_shows_processes() {
    let node = Node::new("T4");
    let mut holder = node.workload(&["allocate", "--mib", "300", "--hold"]);
    holder.line();
    let query = printed(&node, &["--query-compute-apps=pid,used_memory", "--format=csv,noheader"]);
    assert_eq!(query, format!("{}, 300 MiB\n", holder.id()));
    let table = printed(&node, &[]);
    assert!(table.lines().skip(1).all(|line| line.chars().count() <= 91), "{table}");
    assert!(table.contains("|     300MiB /  15360MiB |"), "{table}");
    assert!(table.contains(&format!("|    0   N/A  N/A{:>10}      C   ", holder.id())), "{table}");
    drop(holder);
    assert!(printed(&node, &[]).contains("|  No running processes found "));
}

#[test]
fn nvidia_smi_says_what_is_wrong() {
    let node = Node::new("T4");
    let refused = |args: &[&str]| {
        let output = node.smi(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = refused(&["--query-gpu=colour", "--format=csv"]);
    assert_eq!((code, text.trim_end()), (Some(2), "Field \"colour\" is not a valid field to query."));
    assert_eq!(refused(&["-i", "7"]), (Some(6), "No devices were found\n".into()));
    std::fs::remove_file(node.path("gpus")).unwrap();
    let (code, text) = refused(&["-L"]);
    assert!(code == Some(9) && text.starts_with("NVIDIA-SMI has failed because"), "{text}");
    std::fs::remove_file(node.path("lib/libnvidia-ml.so.1")).unwrap();
    assert_eq!(refused(&["-L"]).0, Some(12));
}
