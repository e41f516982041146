//! The list (`-L`) and the table, laid out as the 550 branch does.

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::query::{or_absent, program, used};

pub(crate) fn list(devices: &[Device<'_>]) -> Result<String, NvmlError> {
    let line = |device: &Device<'_>| {
        Ok(format!("GPU {}: {} (UUID: {})\n", device.index()?, device.name()?, device.uuid()?))
    };
    devices.iter().map(line).collect()
}

const FULL: &str =
    "+-----------------------------------------------------------------------------------------+\n";
const COLUMNS: &str =
    "+-----------------------------------------+------------------------+----------------------+\n";
const TITLES: &str = "\
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
";
const PROCESSES: &str = "\
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
";

pub(crate) fn table(nvml: &Nvml, devices: &[Device<'_>]) -> Result<String, NvmlError> {
    let (version, cuda) = (nvml.sys_driver_version()?, nvml.sys_cuda_driver_version()?);
    let cuda = format!("{}.{}", cuda / 1000, cuda % 1000 / 10);
    let mut text = jiff::Timestamp::now().strftime("%a %b %e %H:%M:%S %Y       \n").to_string() + FULL;
    text += &format!("| NVIDIA-SMI {version:<23}Driver Version: {version:<15}CUDA Version: {cuda:<9}|\n");
    text += TITLES;
    let mut processes = String::new();
    for device in devices {
        text += &(gpu(device)?.join("\n") + "\n" + COLUMNS);
        for process in device.running_compute_processes()? {
            let memory = used(&process).map_or("N/A".to_owned(), |mib| format!("{mib}MiB"));
            let name = fit(&program(nvml, process.pid), 38);
            let (index, pid) = (device.index()?, process.pid);
            processes += &format!("|{index:>5}   N/A  N/A{pid:>10}{:>7}   {name:<40}{memory:>12} |\n", "C");
        }
    }
    if processes.is_empty() {
        processes = format!("|  {:<87}|\n", "No running processes found");
    }
    text += &format!("{:89}\n{FULL}{PROCESSES}{processes}{FULL}", "");
    Ok(text)
}

/// Text of at most so many characters; the end is what tells programs apart.
fn fit(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length - (room - 3)).collect();
    format!("...{end}")
}

/// The three lines of a GPU.
fn gpu(device: &Device<'_>) -> Result<[String; 3], NvmlError> {
    let absent = |value| or_absent(value, "N/A");
    let memory = device.memory_info()?;
    let persistence = if device.is_in_persistent_mode()? { "On" } else { "Off" };
    let temperature = absent(device.temperature(TemperatureSensor::Gpu).map(|c| format!("{c}C")))?;
    let power = absent(device.power_usage().map(|mw| format!("{}W", mw / 1000)))?;
    let limit = absent(device.enforced_power_limit().map(|mw| format!("{}W", mw / 1000)))?;
    let state = absent(device.performance_state().map(|p| format!("P{}", p.as_c())))?;
    let mode = absent(device.compute_mode().map(|m| format!("{m:?}")))?;
    let (used, total) = (format!("{}MiB", memory.used >> 20), format!("{}MiB", memory.total >> 20));
    let percent = absent(device.utilization_rates().map(|u| format!("{}%", u.gpu)))?;
    let (index, name, bus) = (device.index()?, fit(&device.name()?, 27), device.pci_info()?.bus_id);
    let first = format!("|{index:>4}  {name:<31}{persistence:<3} |   {bus} Off |{:>21} |", "N/A");
    let second = format!(
        "| {:<3}  {temperature:>4}    {state:<5} {power:>11} / {limit:>6} |{used:>11} / {total:>9} \
         |{percent:>8}{mode:>13} |",
        "N/A"
    );
    let third = format!("|{:41}|{:24}|{:>21} |", "", "", "N/A");
    Ok([first, second, third])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixed_line_is_as_wide_as_the_table() {
        for line in [FULL, COLUMNS, TITLES, PROCESSES].concat().lines() {
            assert_eq!(line.len(), 91, "{line}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(fit("/usr/bin/vgpu-workload", 11), "...workload");
        assert_eq!(fit("python3", 14), "python3");
    }
}
