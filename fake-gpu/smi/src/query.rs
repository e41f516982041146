//! `--query-gpu` and `--query-compute-apps`: lines of comma-separated values.

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use crate::field::Field;
use crate::options::Options;

/// What a board does not have.
const ABSENT: &str = "[N/A]";

/// What NVML says, or that the board does not have it.
pub(crate) fn or_absent(value: Result<String, NvmlError>, absent: &str) -> Result<String, NvmlError> {
    match value {
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(absent.to_owned()),
        other => other,
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S%.3f").to_string()
}

fn header(fields: &[&Field], options: &Options) -> String {
    let title = |f: &&Field| match f.unit {
        unit if options.units || unit.is_empty() => title(f.name, unit),
        _ => f.name.to_owned(),
    };
    let titles: Vec<String> = fields.iter().map(title).collect();
    if options.header { titles.join(", ") + "\n" } else { String::new() }
}

fn title(name: &str, unit: &str) -> String {
    if unit.is_empty() { name.to_owned() } else { format!("{name} [{unit}]") }
}

fn with_unit(value: String, field: &Field, options: &Options) -> String {
    if options.units && !field.unit.is_empty() && value != ABSENT {
        format!("{value} {}", field.unit)
    } else {
        value
    }
}

pub(crate) fn gpus(
    nvml: &Nvml,
    devices: &[Device<'_>],
    fields: &[&Field],
    options: &Options,
) -> Result<String, NvmlError> {
    let mut text = header(fields, options);
    for device in devices {
        let value = |field: &&Field| {
            let value = or_absent(gpu_field(nvml, device, field.name), ABSENT)?;
            Ok(with_unit(value, field, options))
        };
        let values: Result<Vec<String>, NvmlError> = fields.iter().map(value).collect();
        text += &(values?.join(", ") + "\n");
    }
    Ok(text)
}

fn gpu_field(nvml: &Nvml, device: &Device<'_>, field: &str) -> Result<String, NvmlError> {
    use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
    let mib = |bytes: u64| (bytes >> 20).to_string();
    Ok(match field {
        "timestamp" => now(),
        "driver_version" => nvml.sys_driver_version()?,
        "count" => nvml.device_count()?.to_string(),
        "index" => device.index()?.to_string(),
        "name" => device.name()?,
        "serial" => device.serial()?,
        "uuid" => device.uuid()?,
        "pci.bus_id" => device.pci_info()?.bus_id,
        "pci.bus" => format!("0x{:02X}", device.pci_info()?.bus),
        "pci.device_id" => format!("0x{:08X}", device.pci_info()?.pci_device_id),
        "pci.domain" => format!("0x{:04X}", device.pci_info()?.domain),
        "persistence_mode" => on_or_off(device.is_in_persistent_mode()?).to_owned(),
        "compute_mode" => format!("{:?}", device.compute_mode()?),
        "compute_cap" => {
            let capability = device.cuda_compute_capability()?;
            format!("{}.{}", capability.major, capability.minor)
        }
        "mig.mode.current" => on_or_off(device.mig_mode()?.current != 0).to_owned(),
        "memory.total" => mib(device.memory_info()?.total),
        "memory.reserved" => mib(device.memory_info()?.reserved),
        "memory.used" => mib(device.memory_info()?.used),
        "memory.free" => mib(device.memory_info()?.free),
        "utilization.gpu" => device.utilization_rates()?.gpu.to_string(),
        "utilization.memory" => device.utilization_rates()?.memory.to_string(),
        "temperature.gpu" => device.temperature(TemperatureSensor::Gpu)?.to_string(),
        "power.draw" => format!("{:.2}", f64::from(device.power_usage()?) / 1000.0),
        "pstate" => format!("P{}", device.performance_state()?.as_c()),
        _ => ABSENT.to_owned(),
    })
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "Enabled" } else { "Disabled" }
}

/// MiB, or that the driver does not say.
pub(crate) fn used(process: &ProcessInfo) -> Option<u64> {
    match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes >> 20),
        UsedGpuMemory::Unavailable => None,
    }
}

/// Program of a process, if it can be seen from here.
pub(crate) fn program(nvml: &Nvml, pid: u32) -> String {
    nvml.sys_process_name(pid, 256).unwrap_or_else(|_| "[Not Found]".into())
}

pub(crate) fn processes(
    nvml: &Nvml,
    devices: &[Device<'_>],
    fields: &[&Field],
    options: &Options,
) -> Result<String, NvmlError> {
    let mut text = header(fields, options);
    for device in devices {
        for process in device.running_compute_processes()? {
            let value = |field: &&Field| {
                let value = or_absent(process_field(nvml, device, &process, field.name), ABSENT)?;
                Ok(with_unit(value, field, options))
            };
            let values: Result<Vec<String>, NvmlError> = fields.iter().map(value).collect();
            text += &(values?.join(", ") + "\n");
        }
    }
    Ok(text)
}

fn process_field(
    nvml: &Nvml,
    device: &Device<'_>,
    process: &ProcessInfo,
    field: &str,
) -> Result<String, NvmlError> {
    Ok(match field {
        "timestamp" => now(),
        "gpu_name" => device.name()?,
        "gpu_bus_id" => device.pci_info()?.bus_id,
        "gpu_serial" => device.serial()?,
        "gpu_uuid" => device.uuid()?,
        "pid" => process.pid.to_string(),
        "process_name" => program(nvml, process.pid),
        "used_gpu_memory" => used(process).map_or(ABSENT.to_owned(), |mib| mib.to_string()),
        _ => ABSENT.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Query;

    fn options(format: &str) -> (Vec<&'static Field>, Options) {
        let args = ["--query-gpu=memory.used,gpu_uuid".to_owned(), format!("--format={format}")];
        let mut options = Options::parse(&args).unwrap();
        match std::mem::replace(&mut options.query, Query::Table) {
            Query::Gpus(fields) => (fields, options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn headers_carry_units_and_can_be_left_out() {
        let (fields, with) = options("csv");
        assert_eq!(header(&fields, &with), "memory.used [MiB], uuid\n");
        assert_eq!(with_unit("5".into(), fields[0], &with), "5 MiB");
        assert_eq!(with_unit(ABSENT.into(), fields[0], &with), "[N/A]");
        let (fields, without) = options("csv,noheader,nounits");
        assert_eq!(header(&fields, &without), "");
        assert_eq!(with_unit("5".into(), fields[0], &without), "5");
    }
}
