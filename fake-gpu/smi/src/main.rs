//! An nvidia-smi that knows nothing but NVML, so that whatever stands between it and NVML shows.
//!
//! `-L`, `--query-gpu`, `--query-compute-apps` and the table, with `-i`. Exit status as the real program's page says:
//! 0 done, 2 a wrong argument, 6 no such GPU, 9 no driver, 12 no NVML library, 15 a GPU has fallen off the bus,
//! 255 anything else.

mod field;
mod options;
mod query;
mod table;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use options::{Options, Query};

/// What is said to the user, and the exit status.
#[derive(Debug, PartialEq, Eq)]
struct Failure(String, u8);

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(text) => {
            print!("{text}");
            std::process::ExitCode::SUCCESS
        }
        Err(Failure(message, code)) => {
            println!("{message}");
            std::process::ExitCode::from(code)
        }
    }
}

fn run(args: &[String]) -> Result<String, Failure> {
    let options = Options::parse(args)?;
    if matches!(options.query, Query::Help) {
        return Ok(options::HELP.to_owned());
    }
    let nvml = Nvml::init().map_err(not_started)?;
    let devices = devices(&nvml, &options)?;
    match &options.query {
        Query::List => table::list(&devices),
        Query::Gpus(fields) => query::gpus(&nvml, &devices, fields, &options),
        Query::Processes(fields) => query::processes(&nvml, &devices, fields, &options),
        Query::Table | Query::Help => table::table(&nvml, &devices),
    }
    .map_err(|error| failed("query the GPU", &error))
}

/// Every GPU, or those `-i` names by index, UUID or bus id.
fn devices<'a>(nvml: &'a Nvml, options: &Options) -> Result<Vec<Device<'a>>, Failure> {
    let found: Result<Vec<Device<'a>>, NvmlError> = if options.ids.is_empty() {
        nvml.device_count().and_then(|count| (0..count).map(|i| nvml.device_by_index(i)).collect())
    } else {
        options.ids.iter().map(|id| device(nvml, id)).collect()
    };
    match found {
        Ok(devices) if devices.is_empty() => Err(Failure("No devices were found".into(), 6)),
        Ok(devices) => Ok(devices),
        Err(NvmlError::NotFound | NvmlError::InvalidArg) => Err(Failure("No devices were found".into(), 6)),
        Err(error) => Err(failed("determine the device handle for GPU", &error)),
    }
}

fn device<'a>(nvml: &'a Nvml, id: &str) -> Result<Device<'a>, NvmlError> {
    match id.parse() {
        Ok(index) => nvml.device_by_index(index),
        Err(_) if id.contains(':') => nvml.device_by_pci_bus_id(id),
        Err(_) => nvml.device_by_uuid(id),
    }
}

fn failed(what: &str, error: &NvmlError) -> Failure {
    match error {
        NvmlError::GpuLost => {
            Failure(format!("Unable to {what}: GPU is lost.  Reboot the system to recover this GPU"), 15)
        }
        other => Failure(format!("Unable to {what}: {other}"), 255),
    }
}

fn not_started(error: NvmlError) -> Failure {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => Failure(
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA \
             Display Driver is properly installed and present in your system.\nPlease also try adding directory \
             that contains libnvidia-ml.so to your system PATH."
                .into(),
            12,
        ),
        NvmlError::DriverNotLoaded => Failure(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the \
             latest NVIDIA driver is installed and running.\n"
                .into(),
            9,
        ),
        other => Failure(format!("Failed to initialize NVML: {other}"), 255),
    }
}
