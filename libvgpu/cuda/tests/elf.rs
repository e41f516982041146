//! The two libraries as they are shipped, read byte by byte: what they need of a container, and what they bring into it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use object::elf::{self, FileHeader64};
use object::endian::Endianness;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};

/// Name of the file, the library it stands before, prefix of its functions, largest size in KiB. Half of it is the
/// standard library's, most of that what prints a panic's backtrace.
const SHIMS: [(&str, &str, &str, usize); 2] = [
    ("libvgpu_cuda_shim.so", "libcuda-real.so", "cu", 672),
    ("libvgpu_nvml_shim.so", "libnvidia-ml-real.so", "nvml", 384),
];
/// Newest glibc a symbol may be of: where it is built against a newer one, the C compiler's linker takes that one's versions.
const GLIBC: (u32, u32) = (2, 34);
/// Functions called when it is loaded: `frame_dummy` of the C compiler, which registers nothing, and the one by which
/// Rust's standard library remembers the program's arguments. None is this project's.
const CONSTRUCTORS: u64 = 2;

type Header = FileHeader64<Endianness>;

struct Shim {
    name: &'static str,
    real: &'static str,
    prefix: &'static str,
    kib: usize,
    bytes: Vec<u8>,
}

fn shims() -> Vec<Shim> {
    let mut folder: PathBuf = std::env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    let read = |(name, real, prefix, kib): (&'static str, _, _, _)| {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Shim { name, real, prefix, kib, bytes }
    };
    SHIMS.map(read).into()
}

impl Shim {
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

#[test]
fn it_needs_the_library_it_stands_before_and_what_every_container_with_glibc_has() {
    for shim in shims() {
        let allowed =
            [shim.real, "libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
        let needed = shim.needed();
        assert!(needed.contains(shim.real), "{}: {needed:?}", shim.name);
        assert!(needed.iter().all(|n| allowed.contains(&n.as_str())), "{}: {needed:?}", shim.name);
    }
}

#[test]
fn it_asks_for_no_newer_glibc() {
    for shim in shims() {
        let versions = shim.versions();
        let number = |text: &str| -> Option<(u32, u32)> {
            let (major, rest) = text.strip_prefix("GLIBC_")?.split_once('.')?;
            Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
        };
        let newest = versions.iter().filter_map(|v| number(v)).max();
        println!("{}: {versions:?}", shim.name);
        assert!(newest.is_some_and(|v| v <= GLIBC), "{}: {newest:?} of {versions:?}", shim.name);
    }
}

#[test]
fn it_exports_its_hooks_and_nothing_else() {
    for shim in shims() {
        let exported = shim.exported();
        assert!(exported.iter().all(|name| name.starts_with(shim.prefix)), "{}: {exported:?}", shim.name);
        assert!(exported.len() > 4, "{}: {exported:?}", shim.name);
        if shim.prefix == "cu" {
            let table = include_str!("../../generate/entry_points.tsv");
            let lines = table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
            let hooked: BTreeSet<String> =
                lines.filter(|l| l[5] != "pass").map(|l| l[4].to_owned()).collect();
            assert_eq!(exported, hooked);
        }
    }
}

#[test]
fn loading_it_runs_nothing_of_this_project() {
    for shim in shims() {
        let constructors = shim.value(elf::DT_INIT_ARRAYSZ).unwrap_or(0) / 8;
        assert!(constructors <= CONSTRUCTORS, "{}: {constructors} constructors", shim.name);
        assert_eq!(shim.section_size(".ctors") + shim.section_size(".preinit_array"), 0, "{}", shim.name);
    }
}

#[test]
fn its_code_is_loaded_as_it_is() {
    for shim in shims() {
        let flags = shim.value(elf::DT_FLAGS).unwrap_or(0);
        let relocated = shim.value(elf::DT_TEXTREL).is_some() || flags & u64::from(elf::DF_TEXTREL) != 0;
        assert!(!relocated, "{}: its code has relocations", shim.name);
        let (header, endian) = shim.header();
        let segments = header.program_headers(endian, &shim.bytes[..]).unwrap();
        let loaded = segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD);
        let both = elf::PF_W | elf::PF_X;
        assert!(loaded.into_iter().all(|s| s.p_flags(endian) & both != both), "{}: writable code", shim.name);
    }
}

#[test]
fn it_is_small() {
    for shim in shims() {
        println!("{}: {} bytes", shim.name, shim.bytes.len());
        assert!(shim.bytes.len() < shim.kib << 10, "{}: {} bytes", shim.name, shim.bytes.len());
    }
}
