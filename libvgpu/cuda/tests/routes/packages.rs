//! Files of others that do not lie in this repository: the driver's libraries and another C library from Debian's
//! packages, through a private copy of this machine's own apt sources, and CUDA's runtime from PyPI. They are fetched once
//! into the cache.
//!
//! What cannot be had is the reason tests are skipped with.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a file lies, or why it cannot be had.
pub(crate) type Fetched = Result<PathBuf, String>;

/// A Debian package of a suite, unpacked.
pub(crate) fn debian(suite: &str, component: &str, package: &str) -> Fetched {
    fetched(&format!("debian-{suite}-{package}"), |folder| {
        let apt = Apt::new(&folder.join("apt"), suite, component)?;
        apt.run(folder, &["update"])?;
        apt.run(folder, &["download", &format!("{package}/{suite}")])?;
        let archive = with_extension(folder, "deb")?;
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
        fs::remove_file(archive)
            .and_then(|()| fs::remove_dir_all(folder.join("apt")))
            .map_err(|e| e.to_string())
    })
}

/// A wheel of PyPI, unpacked.
pub(crate) fn wheel(name: &str, version: &str) -> Fetched {
    fetched(&format!("wheel-{name}-{version}"), |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]);
        pip.args(["--timeout", "10", "--retries", "1", "--dest"])
            .arg(folder)
            .arg(format!("{name}=={version}"));
        run(&mut pip)?;
        let archive = with_extension(folder, "whl")?;
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&archive).arg(folder))?;
        fs::remove_file(archive).map_err(|e| e.to_string())
    })
}

/// The file of a name anywhere in a folder.
pub(crate) fn find(folder: &Path, name: &str) -> Fetched {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten() {
            if entry.file_name() == name {
                return fs::canonicalize(entry.path()).map_err(|e| e.to_string());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Err(format!("there is no {name} in {}", folder.display()))
}

/// A folder of the cache, filled unless it is there: beside its place, so that it is never there by half.
fn fetched(name: &str, fill: impl FnOnce(&Path) -> Result<(), String>) -> Fetched {
    let cache = vgpu_programs::cache_folder().join("packages");
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    println!("  fetching {name}");
    let own = cache.join(format!("{name}-{}", std::process::id()));
    let filled = fs::create_dir_all(&own).map_err(|e| e.to_string()).and_then(|()| fill(&own));
    let placed = filled.and_then(|()| match fs::rename(&own, &folder) {
        // Another run was faster.
        Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => Err(e.to_string()),
        _ => Ok(()),
    });
    let _ = fs::remove_dir_all(&own);
    placed.map(|()| folder).map_err(|why| format!("{name} cannot be had: {why}"))
}

fn with_extension(folder: &Path, extension: &str) -> Fetched {
    let files = fs::read_dir(folder).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
    let found = files.into_iter().find(|path| path.extension().is_some_and(|e| e == extension));
    found.ok_or_else(|| format!("no .{extension} was left in {}", folder.display()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot start {name}: {e}"))?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() { Ok(()) } else { Err(format!("{name}: {}", last_line(&error))) }
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default()
}

/// apt with lists, cache and sources of its own.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: &Path, suite: &str, component: &str) -> Result<Self, String> {
        let source = source().ok_or("this machine's apt has no source of Debian's")?;
        let make = || -> io::Result<()> {
            fs::create_dir_all(folder.join("lists/partial"))?;
            fs::create_dir_all(folder.join("cache/archives/partial"))?;
            fs::write(folder.join("status"), "")?;
            let stanza =
                format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: {component}\n", source.address);
            let key = source.key.map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
            fs::write(folder.join("debian.sources"), stanza + &key)
        };
        make().map_err(|e| e.to_string())?;
        Ok(Self(folder.to_owned()))
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Result<(), String> {
        let own = |name: &str, path: &str| format!("{name}={}", self.0.join(path).display());
        let mut apt = Command::new("apt-get");
        apt.current_dir(folder);
        for option in [
            own("Dir::Etc::sourcelist", "debian.sources"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            own("Dir::State::lists", "lists"),
            own("Dir::State::status", "status"),
            own("Dir::Cache", "cache"),
            // The folder is this user's alone.
            "APT::Sandbox::User=".into(),
            "Acquire::http::Timeout=10".into(),
            "Acquire::Retries=1".into(),
            "Acquire::Languages=none".into(),
            // An index that cannot be had is an error, not a warning.
            "APT::Update::Error-Mode=any".into(),
        ] {
            apt.args(["-o", &option]);
        }
        run(apt.arg("-q").args(arguments).env("LC_ALL", "C"))
    }
}

/// A source of Debian's packages as this machine has it.
#[derive(Debug, PartialEq)]
struct Source {
    address: String,
    key: Option<String>,
}

fn source() -> Option<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()));
    let texts = files.into_iter().filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)));
    texts.into_iter().find_map(|(path, text)| match path.extension()?.to_str()? {
        "sources" => text.split("\n\n").find_map(of_stanza),
        "list" => text.lines().find_map(of_line),
        _ => None,
    })
}

/// Whether an address is of Debian's main archive, not of its security updates or of somebody else.
fn is_archive(address: &str) -> bool {
    address.trim_end_matches('/').ends_with("/debian")
}

fn of_stanza(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    };
    let address = field("URIs")?.split_whitespace().find(|a| is_archive(a))?.to_owned();
    Some(Source { address, key: field("Signed-By").filter(|key| key.starts_with('/')) })
}

fn of_line(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let address = rest.split_whitespace().next().filter(|a| is_archive(a))?.to_owned();
    let key = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
    Some(Source { address, key })
}

/// Both notations of sources; called by the tests' program before anything is fetched.
pub(crate) fn check_notations() -> anyhow::Result<()> {
    let expected = Some(Source { address: "http://a/debian".into(), key: Some("/k.gpg".into()) });
    let stanza = "Types: deb\nURIs: http://a/debian\nSuites: x\nSigned-By: /k.gpg\n";
    anyhow::ensure!(of_stanza(stanza) == expected);
    anyhow::ensure!(of_line("deb [arch=amd64 signed-by=/k.gpg] http://a/debian x main") == expected);
    for other in
        ["deb http://a/debian-security x main", "# deb http://a/debian x main", "deb-src http://a/debian x"]
    {
        anyhow::ensure!(of_line(other).is_none(), "{other}");
    }
    Ok(())
}
