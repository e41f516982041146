//! What can be queried: names, other names, units.

/// One field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// As headers print it.
    pub(crate) name: &'static str,
    /// Another name it can be asked by.
    also: &'static str,
    /// Behind numbers, and in headers.
    pub(crate) unit: &'static str,
}

const fn field(name: &'static str, also: &'static str, unit: &'static str) -> Field {
    Field { name, also, unit }
}

/// Of `--query-gpu`.
pub(crate) const GPU: &[Field] = &[
    field("timestamp", "", ""),
    field("driver_version", "", ""),
    field("count", "", ""),
    field("index", "", ""),
    field("name", "gpu_name", ""),
    field("serial", "gpu_serial", ""),
    field("uuid", "gpu_uuid", ""),
    field("pci.bus_id", "gpu_bus_id", ""),
    field("pci.bus", "", ""),
    field("pci.device_id", "", ""),
    field("pci.domain", "", ""),
    field("persistence_mode", "", ""),
    field("compute_mode", "", ""),
    field("compute_cap", "", ""),
    field("mig.mode.current", "", ""),
    field("memory.total", "", "MiB"),
    field("memory.reserved", "", "MiB"),
    field("memory.used", "", "MiB"),
    field("memory.free", "", "MiB"),
    field("utilization.gpu", "", "%"),
    field("utilization.memory", "", "%"),
    field("temperature.gpu", "", ""),
    field("power.draw", "", "W"),
    field("pstate", "", ""),
];

/// Of `--query-compute-apps`.
pub(crate) const PROCESS: &[Field] = &[
    field("timestamp", "", ""),
    field("gpu_name", "", ""),
    field("gpu_bus_id", "", ""),
    field("gpu_serial", "", ""),
    field("gpu_uuid", "", ""),
    field("pid", "", ""),
    field("process_name", "name", ""),
    field("used_gpu_memory", "used_memory", "MiB"),
];

/// A field by either of its names.
pub(crate) fn find(known: &'static [Field], name: &str) -> Option<&'static Field> {
    known.iter().find(|f| f.name == name || (!name.is_empty() && f.also == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_two_names_at_most_and_no_empty_one() {
        assert_eq!(find(GPU, "gpu_uuid"), find(GPU, "uuid"));
        assert_eq!(find(PROCESS, "used_memory").map(|f| f.name), Some("used_gpu_memory"));
        assert_eq!(find(GPU, ""), None);
    }
}
