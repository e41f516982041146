//! GPU models, and descriptions of a node's GPUs: short ones such as `T4x4` or `A100-80GBx2,T4`, or a YAML file.
//!
//! ```yaml
//! gpus:                # in the order of their minor numbers
//! - model: T4
//!   count: 2           # default 1
//! - model: Prototype
//!   numaNode: 1        # default: the first half of the GPUs on 0, the others on 1
//!   nvlink: 1          # GPUs of one number reach each other over NVLink; default: it has no links
//!   pcieRoot: 32       # bus number of the root; default: two GPUs to a root
//!   contextMiB: 300    # what a context takes for itself; default: the model's
//!   moduleMiB: 2       # what a loaded module takes; default: the model's
//! models:              # beside the built-in ones of `profiles.yaml`, in the same form
//!   Prototype: {product: NVIDIA P1, memoryMiB: 1024, reservedMiB: 24, computeCapability: "10.0", multiprocessors: 10,
//!     threadsPerMultiprocessor: 2048, coresPerMultiprocessor: 128, brand: Nvidia, architecture: Blackwell}
//! time:                # see `Time`; here with its defaults
//!   mode: real         # real, virtual or none
//!   sliceMicros: 2000
//!   switchMicros: 100
//!   preemptible: true  # kernels are stopped at the end of a slice
//!   givesWay: true     # a context without work does not keep its slice
//!   queueDepth: 1024   # launches a context queues before the next one blocks
//!   markerNanos: 0     # GPU time of an event record
//!   launchNanos: 3000  # this and the following: what calls cost their thread in virtual time
//!   recordNanos: 700
//!   queryNanos: 300
//!   wakeNanos: 8000    # how late a thread goes on after a wait
//!   participants: 0    # processes virtual time waits for before it begins
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use uuid::Uuid;

use crate::FakeGpuError;
use crate::layout::{MAX_GPUS, NONE, QUEUE, REAL, TimingRecord, VIRTUAL};

/// One GPU model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Product name as nvidia-smi prints it.
    pub product: String,
    /// NVML total memory in MiB.
    pub total_mib: u64,
    /// Of which the driver keeps for itself, in MiB.
    pub reserved_mib: u64,
    /// What a context takes for itself, in MiB. 0 in the built-in models, so that limits can be met exactly.
    pub context_mib: u64,
    /// What a loaded module takes, in MiB. 0 in the built-in models.
    pub module_mib: u64,
    /// Bytes of its memory written in a microsecond; 0: in no time.
    pub memory_rate: u64,
    /// Bytes copied to or from the host in a microsecond; 0: in no time.
    pub copy_rate: u64,
    /// CUDA compute capability.
    pub compute: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Threads one of them holds.
    pub threads: u32,
    /// FP32 cores of one of them.
    pub cores: u32,
    /// NVML brand number (`nvmlBrandType_t`).
    pub brand: u32,
    /// NVML architecture number (`nvmlDeviceArchitecture_t`).
    pub architecture: u32,
}

/// One GPU to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its model.
    pub model: Model,
    /// NVML UUID, always the same for the same node and index.
    pub uuid: String,
    /// PCI bus number.
    pub bus: u32,
    /// Bus number of the PCIe root above it.
    pub root: u32,
    /// NUMA node.
    pub numa: u32,
    /// Number of the group of GPUs it reaches over NVLink; 0: it has no links.
    pub nvlink: u32,
}

/// `nvmlBrandType_t`.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Brand {
    Quadro = 1,
    Tesla = 2,
    #[serde(rename = "GeForce")]
    GeForce = 5,
    NvidiaRtx = 13,
    Nvidia = 14,
    #[serde(rename = "GeForceRTX")]
    GeForceRtx = 15,
}

/// `nvmlDeviceArchitecture_t`.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Architecture {
    Pascal = 4,
    Volta = 5,
    Turing = 6,
    Ampere = 7,
    Ada = 8,
    Hopper = 9,
    Blackwell = 10,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ModelEntry {
    product: String,
    #[serde(rename = "memoryMiB")]
    memory: u64,
    #[serde(rename = "reservedMiB")]
    reserved: u64,
    #[serde(rename = "contextMiB", default)]
    context: u64,
    #[serde(rename = "moduleMiB", default)]
    module: u64,
    #[serde(rename = "memoryGBps", default)]
    memory_rate: u64,
    #[serde(rename = "copyGBps", default)]
    copy_rate: u64,
    compute_capability: String,
    multiprocessors: u32,
    threads_per_multiprocessor: u32,
    cores_per_multiprocessor: u32,
    brand: Brand,
    architecture: Architecture,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GpuEntry {
    model: String,
    #[serde(default = "one")]
    count: usize,
    numa_node: Option<u32>,
    pcie_root: Option<u8>,
    #[serde(default)]
    nvlink: u32,
    #[serde(rename = "contextMiB")]
    context: Option<u64>,
    #[serde(rename = "moduleMiB")]
    module: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    models: BTreeMap<String, ModelEntry>,
    gpus: Vec<GpuEntry>,
    #[serde(default)]
    time: Time,
}

/// Whose clock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Real = REAL as isize,
    Virtual = VIRTUAL as isize,
    None = NONE as isize,
}

/// How time passes on a node's GPUs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Time {
    mode: Mode,
    slice_micros: u64,
    switch_micros: u64,
    preemptible: bool,
    gives_way: bool,
    queue_depth: u32,
    marker_nanos: u64,
    launch_nanos: u64,
    record_nanos: u64,
    query_nanos: u64,
    wake_nanos: u64,
    participants: u32,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            mode: Mode::Real,
            slice_micros: 2_000,
            switch_micros: 100,
            preemptible: true,
            gives_way: true,
            queue_depth: QUEUE as u32,
            marker_nanos: 0,
            launch_nanos: 3_000,
            record_nanos: 700,
            query_nanos: 300,
            wake_nanos: 8_000,
            participants: 0,
        }
    }
}

impl From<Time> for TimingRecord {
    fn from(time: Time) -> Self {
        Self {
            mode: time.mode as u32,
            preemptible: time.preemptible.into(),
            gives_way: time.gives_way.into(),
            queue: time.queue_depth,
            slice: time.slice_micros.saturating_mul(1_000),
            switch: time.switch_micros.saturating_mul(1_000),
            launch: time.launch_nanos,
            record: time.record_nanos,
            marker: time.marker_nanos,
            query: time.query_nanos,
            wake: time.wake_nanos,
            participants: time.participants,
            pad: 0,
        }
    }
}

/// The GPUs of a node, and how their time passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// In the order of their minor numbers.
    pub gpus: Vec<Spec>,
    /// Of all of them.
    pub timing: TimingRecord,
}

impl Description {
    /// The machine's clock, slices of 2 ms.
    pub fn real_time() -> TimingRecord {
        Time::default().into()
    }

    /// The same GPUs in virtual time.
    #[must_use]
    pub fn in_virtual_time(mut self) -> Self {
        self.timing.mode = VIRTUAL;
        self
    }

    /// The same GPUs without time: calls return at once, and nothing is accounted.
    #[must_use]
    pub fn without_time(mut self) -> Self {
        self.timing.mode = NONE;
        self
    }

    fn check(self) -> Result<Self, String> {
        match self.timing {
            TimingRecord { slice: 0, .. } => Err("a slice takes at least 1 microsecond".into()),
            TimingRecord { queue, .. } if !(1..=QUEUE as u32).contains(&queue) => {
                Err(format!("a queue holds 1 to {QUEUE} launches"))
            }
            _ => Ok(self),
        }
    }
}

fn one() -> usize {
    1
}

type Models = BTreeMap<String, ModelEntry>;

fn built_in() -> Result<Models, FakeGpuError> {
    let wrong = |why: serde_saphyr::Error| FakeGpuError::Description {
        text: "profiles.yaml".into(),
        why: why.to_string(),
    };
    serde_saphyr::from_str(include_str!("profiles.yaml")).map_err(wrong)
}

/// Reads a short description, or the file of that name, and names the GPUs after their node.
///
/// # Errors
/// [`FakeGpuError::Io`] for a file that cannot be read, and those of [`parse`].
pub fn load(gpus: &str, node: &str) -> Result<Description, FakeGpuError> {
    let path = Path::new(gpus);
    if !path.is_file() {
        return parse(gpus, node);
    }
    let io = |source| FakeGpuError::Io { action: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let wrong = |why: String| FakeGpuError::Description { text: gpus.to_owned(), why };
    let described: File = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let mut models = built_in()?;
    models.extend(described.models);
    let gpus = specs(&described.gpus, &models, node).map_err(wrong)?;
    Description { gpus, timing: described.time.into() }.check().map_err(wrong)
}

/// Reads a short description and names the GPUs after their node.
///
/// # Errors
/// [`FakeGpuError::Description`] with the part that is wrong and the models there are.
pub fn parse(text: &str, node: &str) -> Result<Description, FakeGpuError> {
    let wrong = |why: String| FakeGpuError::Description { text: text.to_owned(), why };
    let entry = |part: &str| {
        let (model, count) = part.rsplit_once('x').unwrap_or((part, "1"));
        let count = count.parse().map_err(|_| wrong(format!("{part:?} does not end in x and a number")))?;
        let model = model.to_owned();
        Ok(GpuEntry {
            model,
            count,
            numa_node: None,
            pcie_root: None,
            nvlink: 0,
            context: None,
            module: None,
        })
    };
    let entries: Result<Vec<GpuEntry>, FakeGpuError> = text.split(',').map(|p| entry(p.trim())).collect();
    let gpus = specs(&entries?, &built_in()?, node).map_err(wrong)?;
    Ok(Description { gpus, timing: Description::real_time() })
}

fn model(entry: &ModelEntry) -> Result<Model, String> {
    let compute = entry.compute_capability.split_once('.');
    let compute = compute.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if entry.reserved >= entry.memory {
        return Err(format!("{:?} reserves all of its {} MiB", entry.product, entry.memory));
    }
    Ok(Model {
        product: entry.product.clone(),
        total_mib: entry.memory,
        reserved_mib: entry.reserved,
        context_mib: entry.context,
        module_mib: entry.module,
        memory_rate: entry.memory_rate.saturating_mul(1_000),
        copy_rate: entry.copy_rate.saturating_mul(1_000),
        compute: compute.ok_or_else(|| {
            format!("computeCapability {:?} is not of the form \"7.5\"", entry.compute_capability)
        })?,
        multiprocessors: entry.multiprocessors,
        threads: entry.threads_per_multiprocessor,
        cores: entry.cores_per_multiprocessor,
        brand: entry.brand as u32,
        architecture: entry.architecture as u32,
    })
}

fn specs(entries: &[GpuEntry], models: &Models, node: &str) -> Result<Vec<Spec>, String> {
    let total: usize = entries.iter().map(|e| e.count.min(MAX_GPUS + 1)).sum();
    if total == 0 || total > MAX_GPUS {
        return Err(format!("a node has 1 to {MAX_GPUS} GPUs"));
    }
    let mut found = Vec::new();
    for entry in entries {
        let known = models.iter().find(|(id, _)| id.eq_ignore_ascii_case(&entry.model));
        let (_, known) = known.ok_or_else(|| {
            let ids: Vec<&str> = models.keys().map(String::as_str).collect();
            format!("{:?} is no model; there are {}", entry.model, ids.join(", "))
        })?;
        let mut model = model(known)?;
        model.context_mib = entry.context.unwrap_or(model.context_mib);
        model.module_mib = entry.module.unwrap_or(model.module_mib);
        for _ in 0..entry.count {
            let index = found.len();
            let root = entry.pcie_root.map_or(0x10 + 0x10 * (index as u32 / 2), u32::from);
            found.push(Spec {
                model: model.clone(),
                uuid: uuid(node, index),
                bus: 0x10 + 0x10 * (index as u32 / 2) + index as u32 % 2,
                root,
                numa: entry.numa_node.unwrap_or(u32::from(index >= total.div_ceil(2))),
                nvlink: entry.nvlink,
            });
        }
    }
    Ok(found)
}

fn uuid(node: &str, index: usize) -> String {
    format!("GPU-{}", Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{node}/{index}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [&str; 9] =
        ["A100-40GB", "A100-80GB", "A10G", "H100-80GB", "H200", "L4", "T4", "V100-16GB", "V100-32GB"];

    fn file(text: &str) -> Result<Description, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path().to_str().unwrap(), "node").map_err(|e| e.to_string())
    }

    #[test]
    fn a_description_names_models_and_counts() {
        let gpus = parse("T4x2,A100-80GB", "node-a").unwrap().gpus;
        let products: Vec<&str> = gpus.iter().map(|g| g.model.product.as_str()).collect();
        assert_eq!(products, ["Tesla T4", "Tesla T4", "NVIDIA A100-SXM4-80GB"]);
    }

    #[test]
    fn every_built_in_model_can_be_made() {
        assert_eq!(built_in().unwrap().into_keys().collect::<Vec<_>>(), MODELS);
        for gpu in parse(&MODELS.join(","), "node").unwrap().gpus {
            assert!(gpu.model.product.len() < 64 && gpu.model.context_mib == 0, "{gpu:?}");
        }
    }

    #[test]
    fn a_t4_has_15104_mib_to_share() {
        let t4 = &parse("t4", "node").unwrap().gpus[0].model;
        assert_eq!((t4.total_mib, t4.total_mib - t4.reserved_mib), (15_360, 15_104));
    }

    #[test]
    fn uuids_follow_from_node_and_index() {
        let (a, again, b) =
            (parse("T4x2", "a").unwrap(), parse("T4x2", "a").unwrap(), parse("T4x2", "b").unwrap());
        assert_eq!(a, again);
        let uuid = |d: &Description, index: usize| d.gpus[index].uuid.clone();
        assert!(uuid(&a, 0) != uuid(&a, 1) && uuid(&a, 0) != uuid(&b, 0));
        assert_eq!(uuid(&a, 0).len(), 40);
    }

    #[test]
    fn an_unknown_model_is_refused_with_the_known_ones() {
        let error = parse("T5x2", "a").unwrap_err().to_string();
        assert!(error.contains("\"T5\" is no model; there are A100-40GB, "), "{error}");
    }

    #[test]
    fn more_gpus_than_a_node_has_are_refused() {
        for text in ["T4x17", "T4x0", "T4x18446744073709551615,T4"] {
            assert!(parse(text, "a").unwrap_err().to_string().contains("1 to 16 GPUs"), "{text}");
        }
    }

    #[test]
    fn a_file_can_say_all_there_is_to_say() {
        let text = "gpus: [{model: T4, count: 2}, {model: Mine, numaNode: 3, pcieRoot: 7, nvlink: 2, contextMiB: 300}]\n\
                    models: {Mine: {product: NVIDIA P1, memoryMiB: 1024, reservedMiB: 24, \
                    computeCapability: '10.0', multiprocessors: 10, threadsPerMultiprocessor: 2048, \
                    coresPerMultiprocessor: 128, brand: Nvidia, architecture: Blackwell}}";
        let gpus = file(text).unwrap().gpus;
        assert_eq!(
            gpus.iter().map(|g| (g.bus, g.root, g.numa)).collect::<Vec<_>>()[..2],
            [(0x10, 0x10, 0), (0x11, 0x10, 0)]
        );
        let mine = &gpus[2];
        assert_eq!((mine.root, mine.numa, mine.nvlink, gpus[0].nvlink), (7, 3, 2, 0));
        assert_eq!((mine.model.compute, mine.model.context_mib), ((10, 0), 300));
    }

    #[test]
    fn how_time_passes_can_be_said() {
        let text = "gpus: [{model: T4}]\ntime: {mode: virtual, sliceMicros: 500, preemptible: false, participants: 2}";
        let timing = file(text).unwrap().timing;
        assert_eq!((timing.mode, timing.slice, timing.participants), (VIRTUAL, 500_000, 2));
        assert_eq!((timing.preemptible, timing.gives_way, timing.switch), (0, 1, 100_000));
        assert_eq!(file("gpus: [{model: T4}]").unwrap().timing, Description::real_time());
        for wrong in ["sliceMicros: 0", "queueDepth: 0", "queueDepth: 2000", "mode: fast"] {
            assert!(file(&format!("gpus: [{{model: T4}}]\ntime: {{{wrong}}}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused_by_name() {
        let error = file("gpus: [{model: T4, cuont: 2}]").unwrap_err();
        assert!(error.contains("cuont"), "{error}");
    }
}
