//! The list (`-L`) and the table.

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

pub(crate) fn list(nvml: &Nvml) -> Result<String, NvmlError> {
    let mut text = String::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        text += &format!("GPU {index}: {} (UUID: {})\n", device.name()?, device.uuid()?);
    }
    Ok(text)
}

pub(crate) fn table(nvml: &Nvml) -> Result<String, NvmlError> {
    let cuda = nvml.sys_cuda_driver_version()?;
    let version = nvml.sys_driver_version()?;
    let line =
        "+-----------------------------------------------------------------------------------------+\n";
    let mut text = line.to_owned();
    let cuda = format!("{}.{}", cuda / 1000, cuda % 1000 / 10);
    text += &format!("| NVIDIA-SMI {version:<23} Driver Version: {version:<14} CUDA Version: {cuda:<8} |\n");
    text += "|-----------------------------------------+------------------------+----------------------+\n";
    text += "| GPU  Name                               | Bus-Id    Memory-Usage | GPU-Util  Compute M. |\n";
    text += "|=========================================+========================+======================|\n";
    let mut processes = String::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        let memory = device.memory_info()?;
        let usage = format!("{}MiB / {}MiB", memory.used >> 20, memory.total >> 20);
        let bus = device.pci_info()?.bus_id;
        let percent = format!("{}%", device.utilization_rates()?.gpu);
        text += &format!("| {index:>3}  {:<34} | {bus:<22} | {:>8} {:>11} |\n", device.name()?, "", "");
        text += &format!("| {:<39} | {usage:>22} | {percent:>8} {:>11} |\n", "", "Default");
        text +=
            "+-----------------------------------------+------------------------+----------------------+\n";
        for process in device.running_compute_processes()? {
            let used = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => format!("{}MiB", bytes >> 20),
                UsedGpuMemory::Unavailable => "N/A".into(),
            };
            processes += &format!("| {index:>4} {:>12}      C   {:<44} {used:>14}  |\n", process.pid, "");
        }
    }
    if processes.is_empty() {
        processes = format!("|  {:<86} |\n", "No running processes found");
    }
    text += &format!("\n{line}| Processes:{:<78} |\n", "");
    text += "|  GPU          PID   Type   Process name                                      GPU Memory  |\n";
    text += "|=========================================================================================|\n";
    Ok(text + &processes + line)
}
