//! `--query-gpu` and `--query-compute-apps`.

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// What was asked.
pub(crate) enum Query {
    /// `-L`
    List,
    /// `--query-gpu=...`
    Gpus(Vec<String>),
    /// `--query-compute-apps=...`
    Processes(Vec<String>),
    /// Nothing.
    Table,
}

/// The command line.
pub(crate) struct Options {
    pub(crate) query: Query,
    header: bool,
    units: bool,
    index: Option<String>,
}

/// Fields of `--query-gpu`: name, unit.
const GPU_FIELDS: [(&str, &str); 14] = [
    ("index", ""),
    ("name", ""),
    ("gpu_name", ""),
    ("uuid", ""),
    ("gpu_uuid", ""),
    ("memory.total", "MiB"),
    ("memory.reserved", "MiB"),
    ("memory.used", "MiB"),
    ("memory.free", "MiB"),
    ("utilization.gpu", "%"),
    ("driver_version", ""),
    ("pci.bus_id", ""),
    ("compute_cap", ""),
    ("count", ""),
];

/// Fields of `--query-compute-apps`.
const PROCESS_FIELDS: [(&str, &str); 4] =
    [("pid", ""), ("used_memory", "MiB"), ("used_gpu_memory", "MiB"), ("gpu_uuid", "")];

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self { query: Query::Table, header: true, units: true, index: None };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let (name, value) = arg.split_once('=').map_or((arg, None), |(n, v)| (n, Some(v)));
            let fields = |known: &[(&str, &str)]| -> Result<Vec<String>, String> {
                let list = value.unwrap_or_default().split(',').map(str::trim);
                let check = |field: &str| match known.iter().any(|k| k.0 == field) {
                    true => Ok(field.to_owned()),
                    false => Err(format!("Field \"{field}\" is not a valid field to query.\n")),
                };
                list.map(check).collect()
            };
            match name {
                "-L" | "--list-gpus" => options.query = Query::List,
                "--query-gpu" => options.query = Query::Gpus(fields(&GPU_FIELDS)?),
                "--query-compute-apps" => options.query = Query::Processes(fields(&PROCESS_FIELDS)?),
                "-i" | "--id" => options.index = value.or_else(|| args.next()).map(str::to_owned),
                "--format" => {
                    let words: Vec<&str> = value.unwrap_or_default().split(',').map(str::trim).collect();
                    if words.first() != Some(&"csv") {
                        return Err(
                            "Option --format= must be csv, with ,noheader and ,nounits if wanted.".into()
                        );
                    }
                    options.header = !words.contains(&"noheader");
                    options.units = !words.contains(&"nounits");
                }
                _ => return Err(format!("Invalid combination of input arguments. Unknown option {name}")),
            }
        }
        Ok(options)
    }

    fn header(&self, fields: &[String], known: &[(&str, &str)]) -> String {
        let title = |f: &String| match unit(known, f) {
            "" => f.clone(),
            unit => format!("{f} [{unit}]"),
        };
        if self.header {
            fields.iter().map(title).collect::<Vec<_>>().join(", ") + "\n"
        } else {
            String::new()
        }
    }

    fn value(&self, field: &str, value: String, known: &[(&str, &str)]) -> String {
        match unit(known, field) {
            unit if self.units && !unit.is_empty() => format!("{value} {unit}"),
            _ => value,
        }
    }
}

fn unit<'a>(known: &[(&'a str, &'a str)], field: &str) -> &'a str {
    known.iter().find(|k| k.0 == field).map_or("", |k| k.1)
}

/// Every GPU, or the one `-i` names.
fn chosen<'a>(nvml: &'a Nvml, options: &Options) -> Result<Vec<Device<'a>>, NvmlError> {
    match options.index.as_deref() {
        None => (0..nvml.device_count()?).map(|i| nvml.device_by_index(i)).collect(),
        Some(id) => match id.parse() {
            Ok(index) => Ok(vec![nvml.device_by_index(index)?]),
            Err(_) => Ok(vec![nvml.device_by_uuid(id)?]),
        },
    }
}

pub(crate) fn gpus(nvml: &Nvml, fields: &[String], options: &Options) -> Result<String, NvmlError> {
    let mut text = options.header(fields, &GPU_FIELDS);
    for device in chosen(nvml, options)? {
        let values: Result<Vec<String>, NvmlError> = fields
            .iter()
            .map(|field| Ok(options.value(field, gpu_field(nvml, &device, field)?, &GPU_FIELDS)))
            .collect();
        text += &(values?.join(", ") + "\n");
    }
    Ok(text)
}

fn gpu_field(nvml: &Nvml, device: &Device<'_>, field: &str) -> Result<String, NvmlError> {
    let mib = |bytes: u64| (bytes >> 20).to_string();
    Ok(match field {
        "index" => device.index()?.to_string(),
        "name" | "gpu_name" => device.name()?,
        "uuid" | "gpu_uuid" => device.uuid()?,
        "memory.total" => mib(device.memory_info()?.total),
        "memory.reserved" => mib(device.memory_info()?.reserved),
        "memory.used" => mib(device.memory_info()?.used),
        "memory.free" => mib(device.memory_info()?.free),
        "utilization.gpu" => device.utilization_rates()?.gpu.to_string(),
        "driver_version" => nvml.sys_driver_version()?,
        "pci.bus_id" => device.pci_info()?.bus_id,
        "compute_cap" => {
            let capability = device.cuda_compute_capability()?;
            format!("{}.{}", capability.major, capability.minor)
        }
        _ => nvml.device_count()?.to_string(),
    })
}

pub(crate) fn processes(nvml: &Nvml, fields: &[String], options: &Options) -> Result<String, NvmlError> {
    let mut text = options.header(fields, &PROCESS_FIELDS);
    for device in chosen(nvml, options)? {
        for process in device.running_compute_processes()? {
            let value = |field: &String| -> Result<String, NvmlError> {
                let value = match field.as_str() {
                    "pid" => process.pid.to_string(),
                    "gpu_uuid" => device.uuid()?,
                    _ => match process.used_gpu_memory {
                        UsedGpuMemory::Used(bytes) => (bytes >> 20).to_string(),
                        UsedGpuMemory::Unavailable => return Ok("[N/A]".into()),
                    },
                };
                Ok(options.value(field, value, &PROCESS_FIELDS))
            };
            let values: Result<Vec<String>, NvmlError> = fields.iter().map(value).collect();
            text += &(values?.join(", ") + "\n");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_unknown_field_is_refused_as_the_real_program_does() {
        let error = parse(&["--query-gpu=uuid,colour", "--format=csv"]).err().unwrap();
        assert_eq!(error, "Field \"colour\" is not a valid field to query.\n");
    }

    #[test]
    fn headers_carry_units_and_can_be_left_out() {
        let fields = ["memory.used".to_owned(), "uuid".to_owned()];
        let options = parse(&["--query-gpu=memory.used,uuid", "--format=csv"]).unwrap();
        assert_eq!(options.header(&fields, &GPU_FIELDS), "memory.used [MiB], uuid\n");
        let options = parse(&["--query-gpu=memory.used,uuid", "--format=csv,noheader,nounits"]).unwrap();
        assert_eq!(options.header(&fields, &GPU_FIELDS), "");
        assert_eq!(options.value("memory.used", "5".into(), &GPU_FIELDS), "5");
    }
}
