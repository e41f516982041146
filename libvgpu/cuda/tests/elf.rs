//! The limiter's files, read byte by byte: what they need of a container, and what they bring into it.
//!
//! `cargo xtask test` has them built as they are shipped, for both processors. Those of the plain build, which other tests
//! load where there are no others, are held to what a C compiler of today can do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use object::elf::{self, FileHeader64};
use object::endian::Endianness;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};

/// Name of the file, the library it stands before, prefixes of its functions.
const FILES: [(&str, Option<&str>, &[&str]); 3] = [
    ("libvgpu_cuda_shim.so", Some("libcuda-real.so"), &["cu"]),
    ("libvgpu_nvml_shim.so", Some("libnvidia-ml-real.so"), &["nvml"]),
    ("libvgpu_preload.so", None, &["cu", "nvml", "dlsym", "dlvsym"]),
];

/// What a build is held to.
struct Build {
    name: &'static str,
    machine: u16,
    /// Libraries of every container with glibc.
    needed: &'static [&'static str],
    /// Newest glibc a symbol may be of.
    glibc: (u32, u32),
    /// Functions called when it is loaded.
    constructors: u64,
    kib: usize,
}

const BUILDS: [Build; 3] = [
    Build {
        name: "x86_64",
        machine: elf::EM_X86_64,
        needed: &["libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"],
        glibc: (2, 17),
        constructors: 0,
        kib: 512,
    },
    Build {
        name: "aarch64",
        machine: elf::EM_AARCH64,
        needed: &["libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-aarch64.so.1"],
        glibc: (2, 17),
        constructors: 0,
        kib: 512,
    },
    // Linked by the C compiler it takes the versions of the glibc at hand, gcc's unwinder, its `frame_dummy`, which
    // registers nothing, and the function by which Rust's standard library remembers the program's arguments.
    Build {
        name: "plain",
        machine: if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 },
        needed: &["libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"],
        glibc: (2, 34),
        constructors: 2,
        kib: 768,
    },
];

type Header = FileHeader64<Endianness>;
type Check = fn(&Object);

const CHECKS: [(&str, Check); 6] = [
    ("it_needs_the_library_it_stands_before_and_what_every_container_with_glibc_has", needs),
    ("it_asks_for_no_newer_glibc", versions),
    ("it_exports_its_hooks_and_nothing_else", exports),
    ("loading_it_runs_nothing_of_this_project", constructors),
    ("its_code_is_loaded_as_it_is", relocations),
    ("it_is_small", size),
];

/// One file.
struct Object {
    build: &'static Build,
    name: &'static str,
    real: Option<&'static str>,
    prefixes: &'static [&'static str],
    bytes: Vec<u8>,
}

/// Where a build's files are, or why they are not.
fn folder(build: &Build) -> Result<PathBuf, String> {
    if build.name == "plain" {
        let mut folder: PathBuf = std::env::current_exe().map_err(|e| e.to_string())?;
        folder.pop();
        folder.pop();
        return Ok(folder);
    }
    let lacks = std::env::var(format!("VGPU_LIMITER_LACKS_{}", build.name.to_uppercase()));
    if let Ok(why) = lacks {
        return Err(why);
    }
    let all = std::env::var_os("VGPU_LIMITER").ok_or("`cargo xtask test` builds it, not cargo alone")?;
    Ok(Path::new(&all).join(build.name))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for build in &BUILDS {
        let folder = folder(build);
        for (check, run) in CHECKS {
            let name = format!("{}::{check}", build.name);
            if let (Err(why), false) = (&folder, arguments.list) {
                println!("skipped: {name}: {why}");
            }
            let lacks = folder.is_err();
            let folder = folder.clone().unwrap_or_default();
            let trial = Trial::test(name, move || {
                for (name, real, prefixes) in FILES {
                    let path = folder.join(name);
                    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                    run(&Object { build, name, real, prefixes, bytes });
                }
                Ok(())
            });
            trials.push(trial.with_ignored_flag(lacks));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

impl Object {
    fn header(&self) -> (&Header, Endianness) {
        let header = Header::parse(&self.bytes[..]).unwrap();
        (header, header.endian().unwrap())
    }

    /// Tags and values of the dynamic section.
    fn dynamic(&self) -> Vec<(i64, u64)> {
        let (header, endian) = self.header();
        let segments = header.program_headers(endian, &self.bytes[..]).unwrap();
        let found = segments.iter().find_map(|s| s.dynamic(endian, &self.bytes[..]).unwrap());
        found.unwrap().iter().map(|d| (d.d_tag(endian), d.d_val(endian))).collect()
    }

    fn value(&self, tag: i64) -> Option<u64> {
        self.dynamic().into_iter().find(|(t, _)| *t == tag).map(|(_, value)| value)
    }

    /// Libraries it needs.
    fn needed(&self) -> BTreeSet<String> {
        let (header, endian) = self.header();
        let sections = header.sections(endian, &self.bytes[..]).unwrap();
        let symbols = sections.symbols(endian, &self.bytes[..], elf::SHT_DYNSYM).unwrap();
        let name = |at| String::from_utf8(symbols.strings().get(at).unwrap().to_vec()).unwrap();
        let needed = self.dynamic().into_iter().filter(|(tag, _)| *tag == elf::DT_NEEDED);
        needed.map(|(_, at)| name(at as u32)).collect()
    }

    /// Functions it defines for others.
    fn exported(&self) -> BTreeSet<String> {
        let (header, endian) = self.header();
        let sections = header.sections(endian, &self.bytes[..]).unwrap();
        let symbols = sections.symbols(endian, &self.bytes[..], elf::SHT_DYNSYM).unwrap();
        let exported = symbols.iter().filter(|s| !s.is_undefined(endian) && s.st_bind() != elf::STB_LOCAL);
        let name = |s: &elf::Sym64<Endianness>| s.name(endian, symbols.strings()).unwrap().to_vec();
        exported.map(|s| String::from_utf8(name(s)).unwrap()).collect()
    }

    /// Versions of symbols it asks of other libraries.
    fn versions(&self) -> BTreeSet<String> {
        let (header, endian) = self.header();
        let sections = header.sections(endian, &self.bytes[..]).unwrap();
        let symbols = sections.symbols(endian, &self.bytes[..], elf::SHT_DYNSYM).unwrap();
        let mut found = BTreeSet::new();
        let (mut needs, _) = sections.gnu_verneed(endian, &self.bytes[..]).unwrap().unwrap();
        while let Some((_, mut versions)) = needs.next().unwrap() {
            while let Some(version) = versions.next().unwrap() {
                let name = version.name(endian, symbols.strings()).unwrap();
                found.insert(String::from_utf8(name.to_vec()).unwrap());
            }
        }
        found
    }

    fn section_size(&self, name: &str) -> u64 {
        let (header, endian) = self.header();
        let sections = header.sections(endian, &self.bytes[..]).unwrap();
        sections.section_by_name(endian, name.as_bytes()).map_or(0, |(_, s)| s.sh_size(endian))
    }
}

fn needs(object: &Object) {
    let needed = object.needed();
    let allowed = |name: &str| object.build.needed.contains(&name) || object.real == Some(name);
    assert!(object.real.is_none_or(|real| needed.contains(real)), "{}: {needed:?}", object.name);
    assert!(needed.iter().all(|name| allowed(name)), "{}: {needed:?}", object.name);
    let (header, endian) = object.header();
    assert_eq!(header.e_machine(endian), object.build.machine, "{}", object.name);
}

fn versions(object: &Object) {
    let versions = object.versions();
    let number = |text: &str| -> Option<(u32, u32)> {
        let (major, rest) = text.strip_prefix("GLIBC_")?.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    };
    let newest = versions.iter().filter_map(|v| number(v)).max();
    assert!(newest.is_some_and(|v| v <= object.build.glibc), "{}: {newest:?} of {versions:?}", object.name);
}

fn exports(object: &Object) {
    let exported = object.exported();
    let is_ours = |name: &String| object.prefixes.iter().any(|prefix| name.starts_with(prefix));
    assert!(exported.iter().all(is_ours), "{}: {exported:?}", object.name);
    assert!(exported.iter().filter(|name| name.starts_with(object.prefixes[0])).count() > 4);
    if object.prefixes.contains(&"cu") {
        let table = include_str!("../../generate/entry_points.tsv");
        let lines = table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
        let hooked: BTreeSet<String> = lines.filter(|l| l[5] != "pass").map(|l| l[4].to_owned()).collect();
        let cuda = exported.into_iter().filter(|name| name.starts_with("cu"));
        assert_eq!(cuda.collect::<BTreeSet<_>>(), hooked);
    }
}

fn constructors(object: &Object) {
    let constructors = object.value(elf::DT_INIT_ARRAYSZ).unwrap_or(0) / 8;
    assert!(constructors <= object.build.constructors, "{}: {constructors} constructors", object.name);
    assert_eq!(object.section_size(".ctors") + object.section_size(".preinit_array"), 0, "{}", object.name);
}

fn relocations(object: &Object) {
    let flags = object.value(elf::DT_FLAGS).unwrap_or(0);
    let relocated = object.value(elf::DT_TEXTREL).is_some() || flags & u64::from(elf::DF_TEXTREL) != 0;
    assert!(!relocated, "{}: its code has relocations", object.name);
    let (header, endian) = object.header();
    let segments = header.program_headers(endian, &object.bytes[..]).unwrap();
    let loaded = segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD);
    let both = elf::PF_W | elf::PF_X;
    assert!(loaded.into_iter().all(|s| s.p_flags(endian) & both != both), "{}: writable code", object.name);
}

fn size(object: &Object) {
    println!("  {} for {}: {} bytes", object.name, object.build.name, object.bytes.len());
    assert!(object.bytes.len() < object.build.kib << 10, "{}: {} bytes", object.name, object.bytes.len());
}
