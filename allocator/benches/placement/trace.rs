//! Nodes and pods of the published traces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use vgpu_allocator::trace::{self, Host, Models, Pod};

/// Everything in a folder of traces.
pub(crate) struct Traces {
    pub(crate) hosts: Vec<Host>,
    pub(crate) pods: BTreeMap<String, Vec<Pod>>,
    /// Published percent by trace and policy: at 90, 95, 100 and 130 % of demand.
    pub(crate) published: BTreeMap<(String, String), [f64; 4]>,
    /// Upper bound at 100 % of demand, by trace, in percent.
    pub(crate) bounds: BTreeMap<String, f64>,
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    let file = File::open(path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
    let read = if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text)
    } else {
        { file }.read_to_string(&mut text)
    };
    read.unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    text
}

fn read(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = text(path);
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let row =
        |line: &str| header.iter().map(|h| h.to_string()).zip(line.split(',').map(str::to_owned)).collect();
    lines.map(row).collect()
}

impl Traces {
    /// Pods of a folder; nodes and what is published of the traces come from it too, or from `traces/` beside this file.
    pub(crate) fn load(folder: &Path) -> Self {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/placement/traces");
        let file = |names: &[&str]| {
            let found = [folder, &own].into_iter().flat_map(|f| names.iter().map(move |n| f.join(n)));
            found.into_iter().find(|path| path.exists()).unwrap_or_else(|| own.join(names[0]))
        };
        let mut models = Models::default();
        let nodes = file(&["openb_node_list_gpu_node.csv.gz", "openb_node_list_gpu_node.csv"]);
        let hosts = trace::hosts(&text(&nodes), &mut models);
        let hosts = hosts.unwrap_or_else(|e| panic!("{}: {e}", nodes.display()));
        let mut pods = BTreeMap::new();
        for entry in std::fs::read_dir(folder).expect("a folder of traces") {
            let path = entry.expect("an entry of it").path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = file.strip_suffix(".gz").unwrap_or(&file);
            let name = name.strip_prefix("openb_pod_list_").and_then(|n| n.strip_suffix(".csv"));
            let Some(name) = name else { continue };
            let found = trace::pods(&text(&path), &mut models);
            pods.insert(name.to_owned(), found.unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        }
        let mut published = BTreeMap::new();
        for row in read(&file(&["expected_allocation.csv"])) {
            let at = |field: &str| row[field].parse().expect("a percentage");
            let points = ["at_90", "at_95", "at_100", "at_130"].map(at);
            published.insert((row["trace"].clone(), row["policy"].clone()), points);
        }
        let bound = |row: BTreeMap<String, String>| {
            (row["trace"].clone(), row["at_100"].parse().expect("a percentage"))
        };
        let bounds = read(&file(&["bound.csv"])).into_iter().map(bound).collect();
        Self { hosts, pods, published, bounds }
    }

    /// GPUs of the cluster, in thousandths.
    pub(crate) fn capacity(&self) -> u64 {
        trace::capacity(&self.hosts)
    }
}

/// splitmix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Above 0, at most 1.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }

    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}
