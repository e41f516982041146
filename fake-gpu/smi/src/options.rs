//! The command line.

use crate::Failure;
use crate::field::{self, Field};

/// What was asked.
#[derive(Debug)]
pub(crate) enum Query {
    /// `-L`
    List,
    /// `--query-gpu=...`
    Gpus(Vec<&'static Field>),
    /// `--query-compute-apps=...`
    Processes(Vec<&'static Field>),
    /// Nothing.
    Table,
    /// `-h`
    Help,
}

/// Everything on the command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) query: Query,
    pub(crate) header: bool,
    pub(crate) units: bool,
    /// GPUs by index, UUID or bus id; none means all.
    pub(crate) ids: Vec<String>,
}

/// What `-h` prints.
pub(crate) const HELP: &str = "\
NVIDIA System Management Interface

nvidia-smi [-i IDS]                                        the table
nvidia-smi -L [-i IDS]                                     one line per GPU
nvidia-smi --query-gpu=FIELDS --format=csv[,noheader][,nounits] [-i IDS]
nvidia-smi --query-compute-apps=FIELDS --format=csv[,noheader][,nounits] [-i IDS]

IDS are indices, UUIDs or PCI bus ids, separated by commas.
";

fn wrong(message: String) -> Failure {
    Failure(message, 2)
}

fn fields(list: &str, known: &'static [Field]) -> Result<Vec<&'static Field>, Failure> {
    let find = |name: &str| {
        let missing = || wrong(format!("Field \"{name}\" is not a valid field to query.\n"));
        field::find(known, name).ok_or_else(missing)
    };
    list.split(',').map(|name| find(name.trim())).collect()
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, Failure> {
        let mut options = Self { query: Query::Table, header: true, units: true, ids: Vec::new() };
        let mut format = None;
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let (name, value) = arg.split_once('=').map_or((arg, None), |(n, v)| (n, Some(v)));
            match (name, value) {
                ("-h" | "--help", None) => options.query = Query::Help,
                ("-L" | "--list-gpus", None) => options.query = Query::List,
                ("--query-gpu", Some(list)) => options.query = Query::Gpus(fields(list, field::GPU)?),
                ("--query-compute-apps", Some(list)) => {
                    options.query = Query::Processes(fields(list, field::PROCESS)?);
                }
                ("-i" | "--id", _) => {
                    let list = value.or_else(|| args.next()).unwrap_or_default();
                    options.ids = list.split(',').map(|id| id.trim().to_owned()).collect();
                }
                ("--format", Some(list)) => format = Some(list),
                _ => {
                    let message =
                        "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n";
                    return Err(wrong(message.into()));
                }
            }
        }
        options.apply(format)?;
        Ok(options)
    }

    fn apply(&mut self, format: Option<&str>) -> Result<(), Failure> {
        let words: Vec<&str> = format.unwrap_or_default().split(',').map(str::trim).collect();
        let is_query = matches!(self.query, Query::Gpus(_) | Query::Processes(_));
        if is_query && !words.contains(&"csv") {
            return Err(wrong("\"--format=\" switch is missing or does not say csv.\n".into()));
        }
        if let Some(word) = words.iter().find(|w| !["", "csv", "noheader", "nounits"].contains(w)) {
            return Err(wrong(format!("Format \"{word}\" is not valid.\n")));
        }
        self.header = !words.contains(&"noheader");
        self.units = !words.contains(&"nounits");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, Failure> {
        Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[track_caller]
    fn refused(args: &[&str]) -> String {
        let Failure(message, code) = parse(args).unwrap_err();
        assert_eq!(code, 2);
        message
    }

    #[test]
    fn an_unknown_field_is_refused_as_the_real_program_does() {
        let message = refused(&["--query-gpu=uuid,colour", "--format=csv"]);
        assert_eq!(message, "Field \"colour\" is not a valid field to query.\n");
    }

    #[test]
    fn a_query_needs_a_format_it_knows() {
        assert!(refused(&["--query-gpu=uuid"]).contains("--format="));
        assert!(refused(&["--query-gpu=uuid", "--format=csv,nohead"]).contains("nohead"));
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(refused(&["--colour"]).contains("nvidia-smi -h"));
        assert!(refused(&["--query-gpu"]).contains("nvidia-smi -h"));
    }

    #[test]
    fn gpus_are_chosen_by_either_form_of_the_option() {
        assert_eq!(parse(&["-i", "0,GPU-1"]).unwrap().ids, ["0", "GPU-1"]);
        assert_eq!(parse(&["--id=1"]).unwrap().ids, ["1"]);
    }

    #[test]
    fn format_words_switch_header_and_units_off() {
        let options = parse(&["--query-gpu=uuid", "--format=csv, noheader,nounits"]).unwrap();
        assert!(!options.header && !options.units);
        let options = parse(&["--query-gpu=uuid", "--format=csv"]).unwrap();
        assert!(options.header && options.units);
    }
}
