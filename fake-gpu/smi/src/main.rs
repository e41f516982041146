//! An nvidia-smi that knows nothing but NVML, so that whatever stands between it and NVML shows.

mod query;
mod table;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(text) => {
            print!("{text}");
            std::process::ExitCode::SUCCESS
        }
        Err((message, code)) => {
            println!("{message}");
            std::process::ExitCode::from(code)
        }
    }
}

type Failure = (String, u8);

fn run(args: &[String]) -> Result<String, Failure> {
    let options = query::Options::parse(args).map_err(|message| (message, 2))?;
    let nvml = Nvml::init().map_err(not_started)?;
    let text = match &options.query {
        query::Query::List => table::list(&nvml),
        query::Query::Gpus(fields) => query::gpus(&nvml, fields, &options),
        query::Query::Processes(fields) => query::processes(&nvml, fields, &options),
        query::Query::Table => table::table(&nvml),
    };
    text.map_err(|error| (format!("Unable to determine the device handle: {error}"), 255))
}

/// Words and exit status of the real program.
fn not_started(error: NvmlError) -> Failure {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.".into(), 12)
        }
        NvmlError::DriverNotLoaded => (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest \
             NVIDIA driver is installed and running."
                .into(),
            9,
        ),
        other => (format!("Failed to initialize NVML: {other}"), 255),
    }
}
