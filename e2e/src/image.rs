//! Container images from our own binaries: OCI archives, made without a daemon, imported without a registry.
//!
//! An image holds the named files, stripped, and every shared library they load, at the paths this machine has them, so
//! that a tenant's image can load the limiter. Archives lie in the cache under a name that is a hash of their inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::artifacts::Artifacts;

/// Of glibc, beside libc itself: what libcuda and libnvidia-ml of every branch are linked with (`readelf -d`).
const PARTS: [&str; 4] = ["libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];

/// What an image holds.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full name, as pods write it.
    pub name: String,
    /// Path in the image -> file here.
    pub files: BTreeMap<String, PathBuf>,
    /// Command when a pod names none.
    pub entrypoint: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or a tool.
    #[error("image {image}: cannot {action} {path}")]
    Io {
        /// Image name.
        image: String,
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A tool said no.
    #[error("image {image}: {tool} {path}: {message}")]
    Tool {
        /// Image name.
        image: String,
        /// The tool.
        tool: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// Every image a cluster of this project runs.
pub fn all(artifacts: &Artifacts) -> Vec<Image> {
    let image = |name: &str, files: &[(&str, &str)], entrypoint: &[&str]| Image {
        name: name.to_owned(),
        files: files.iter().map(|(to, from)| ((*to).to_owned(), artifacts.path(from))).collect(),
        entrypoint: entrypoint.iter().map(|w| (*w).to_owned()).collect(),
    };
    let product = format!("vgpu-dra/vgpu-dra:{}", env!("CARGO_PKG_VERSION"));
    vec![
        image(
            "vgpu-dra/pause:dev",
            &[("usr/bin/vgpu-workload", "vgpu-workload")],
            &["/usr/bin/vgpu-workload", "sleep"],
        ),
        image(
            "vgpu-dra/workload:dev",
            &[("usr/bin/vgpu-workload", "vgpu-workload")],
            &["/usr/bin/vgpu-workload", "sleep"],
        ),
        image(
            &product,
            &[
                ("usr/bin/vgpu-controller", "vgpu-controller"),
                ("usr/bin/vgpu-kubelet-plugin", "vgpu-kubelet-plugin"),
                ("usr/lib/vgpu-dra/libcuda.so.1", "libvgpu_cuda_shim.so"),
                ("usr/lib/vgpu-dra/libnvidia-ml.so.1", "libvgpu_nvml_shim.so"),
                ("usr/lib/vgpu-dra/libvgpu_preload.so", "libvgpu_preload.so"),
            ],
            &["/usr/bin/vgpu-controller"],
        ),
    ]
}

/// Makes the images whose inputs changed and puts their archives into a folder of the caller's own.
///
/// The cache is shared by every checkout on the machine: until this returns, no other program replaces an archive there,
/// and afterwards the caller's stay as they are.
///
/// # Errors
/// [`ImageError`] with the image and the file.
pub fn provide(images: &[Image], cache: &Path, into: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let Some(first) = images.first() else { return Ok(Vec::new()) };
    for folder in [cache, into] {
        fs::create_dir_all(folder).map_err(first.error("create", folder))?;
    }
    let lock = cache.join("lock");
    let file = fs::File::create(&lock).map_err(first.error("create", &lock))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| first.error("lock", &lock)(e.into()))?;
    let provide = |image: &Image| {
        let archive = image.archive(cache)?;
        let own = into.join(archive.file_name().unwrap_or_default());
        // Another file system has no links to this one.
        let linked = fs::hard_link(&archive, &own).or_else(|_| fs::copy(&archive, &own).map(drop));
        linked.map_err(image.error("write", &own))?;
        Ok(own)
    };
    images.iter().map(provide).collect()
}

impl Image {
    fn error(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
        let (image, path) = (self.name.clone(), path.to_owned());
        move |source| ImageError::Io { image, action, path, source }
    }

    /// The archive, made if its inputs changed. The caller holds the cache's lock.
    fn archive(&self, cache: &Path) -> Result<PathBuf, ImageError> {
        let stem: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let archive = cache.join(format!("{stem}-{}.tar", self.key()?));
        if archive.exists() {
            return Ok(archive);
        }
        let bytes = self.build(cache)?;
        let part = cache.join(format!("{stem}.{}.part", std::process::id()));
        fs::write(&part, bytes).map_err(self.error("write", &part))?;
        for old in fs::read_dir(cache).map_err(self.error("read", cache))?.flatten() {
            if old.file_name().to_string_lossy().starts_with(&format!("{stem}-")) {
                let _ = fs::remove_file(old.path());
            }
        }
        fs::rename(&part, &archive).map_err(self.error("rename", &part))?;
        Ok(archive)
    }

    /// Name, paths, sizes and times of everything that goes in, the libraries included.
    fn key(&self) -> Result<String, ImageError> {
        let mut hash = Sha256::new();
        hash.update(format!("3 {} {:?}", self.name, self.entrypoint));
        let mut add = |to: &str, from: &Path| {
            let meta = fs::metadata(from).map_err(self.error("read", from))?;
            hash.update(format!("{to} {} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec()));
            Ok(())
        };
        for (to, from) in &self.files {
            add(to, from)?;
            for library in self.libraries(from)? {
                add(&library.display().to_string(), &library)?;
            }
        }
        Ok(hex(hash, 8))
    }

    fn build(&self, scratch: &Path) -> Result<Vec<u8>, ImageError> {
        let mut files: BTreeMap<String, (Vec<u8>, u32)> = BTreeMap::new();
        for (to, from) in &self.files {
            files.insert(to.clone(), (self.stripped(from, scratch)?, 0o755));
            for library in self.libraries(from)? {
                let name = library.display().to_string().trim_start_matches('/').to_owned();
                if let std::collections::btree_map::Entry::Vacant(entry) = files.entry(name) {
                    entry.insert((fs::read(&library).map_err(self.error("read", &library))?, 0o755));
                }
            }
        }
        files.insert("etc/passwd".into(), (b"root:x:0:0:root:/:/\n".to_vec(), 0o644));
        let layer = self.layer(&files)?;
        self.oci(layer)
    }

    fn stripped(&self, from: &Path, scratch: &Path) -> Result<Vec<u8>, ImageError> {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = scratch.join(format!("{name}.{}.stripped", std::process::id()));
        let out = Command::new("strip").arg("-o").arg(&to).arg(from).output();
        let out = out.map_err(self.error("run strip (package binutils) on", from))?;
        if !out.status.success() {
            let message = String::from_utf8_lossy(&out.stderr).into_owned();
            return Err(ImageError::Tool {
                image: self.name.clone(),
                tool: "strip",
                path: from.to_owned(),
                message,
            });
        }
        let bytes = fs::read(&to).map_err(self.error("read", &to))?;
        let _ = fs::remove_file(&to);
        Ok(bytes)
    }

    /// Shared libraries a file loads, by this machine's loader. What only exists in a container (`libcuda-real.so`) is
    /// left out. With the C library come its parts that NVIDIA's libraries load, as in every image they run in.
    fn libraries(&self, file: &Path) -> Result<BTreeSet<PathBuf>, ImageError> {
        let out = Command::new("ldd").arg(file).output().map_err(self.error("run ldd on", file))?;
        let mut found = parse_ldd(&String::from_utf8_lossy(&out.stdout));
        let libc = found.iter().find(|library| library.ends_with("libc.so.6"));
        if let Some(folder) = libc.and_then(|library| library.parent()) {
            let parts: Vec<PathBuf> = PARTS.iter().map(|part| folder.join(part)).collect();
            found.extend(parts.into_iter().filter(|part| part.exists()));
        }
        Ok(found)
    }

    fn layer(&self, files: &BTreeMap<String, (Vec<u8>, u32)>) -> Result<Vec<u8>, ImageError> {
        let mut folders: BTreeSet<PathBuf> =
            ["dev", "proc", "sys", "run", "tmp", "var", "etc", "usr/bin", "usr/lib"]
                .iter()
                .map(PathBuf::from)
                .collect();
        for path in files.keys().map(Path::new).chain(folders.clone().iter().map(PathBuf::as_path)) {
            folders
                .extend(path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()).map(Path::to_owned));
        }
        let mut tar = Archive::default();
        for folder in &folders {
            let mode = if folder == Path::new("tmp") { 0o1777 } else { 0o755 };
            tar.folder(&folder.display().to_string(), mode);
        }
        for (path, (bytes, mode)) in files {
            tar.file(path, bytes, *mode);
        }
        tar.finish().map_err(self.error("pack", Path::new("the layer")))
    }

    fn oci(&self, layer: Vec<u8>) -> Result<Vec<u8>, ImageError> {
        let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut put = |bytes: Vec<u8>| {
            let mut hash = Sha256::new();
            hash.update(&bytes);
            let (digest, size) = (hex(hash, 32), bytes.len());
            blobs.insert(digest.clone(), bytes);
            json!({"digest": format!("sha256:{digest}"), "size": size})
        };
        let typed = |mut blob: serde_json::Value, media: &str| {
            blob["mediaType"] = media.into();
            blob
        };
        let layer = typed(put(layer), "application/vnd.oci.image.layer.v1.tar");
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = typed(put(config.to_string().into_bytes()), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        });
        let mut manifest =
            typed(put(manifest.to_string().into_bytes()), "application/vnd.oci.image.manifest.v1+json");
        // Pods write short names; the runtime resolves them to this.
        let full = format!("docker.io/{}", self.name);
        manifest["annotations"] = json!({"io.containerd.image.name": full});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        let mut tar = Archive::default();
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
        tar.file("index.json", index.to_string().as_bytes(), 0o644);
        tar.folder("blobs", 0o755);
        tar.folder("blobs/sha256", 0o755);
        for (digest, bytes) in &blobs {
            tar.file(&format!("blobs/sha256/{digest}"), bytes, 0o644);
        }
        tar.finish().map_err(self.error("pack", Path::new("the archive")))
    }
}

/// A tar archive that depends on nothing but its contents.
#[derive(Default)]
struct Archive {
    builder: Option<tar::Builder<Vec<u8>>>,
    error: Option<io::Error>,
}

impl Archive {
    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) {
        let builder = self.builder.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        let done = builder.append_data(&mut header, path, bytes);
        self.error = self.error.take().or(done.err());
    }

    fn folder(&mut self, path: &str, mode: u32) {
        self.entry(path, tar::EntryType::Directory, mode, &[]);
    }

    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) {
        self.entry(path, tar::EntryType::Regular, mode, bytes);
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self.error {
            Some(error) => Err(error),
            None => self.builder.unwrap_or_else(|| tar::Builder::new(Vec::new())).into_inner(),
        }
    }
}

fn hex(hash: Sha256, bytes: usize) -> String {
    hash.finalize().iter().take(bytes).map(|b| format!("{b:02x}")).collect()
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let path = line.split("=>").last()?.trim().split(" (0x").next()?.trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_and_missing_ones_left_out() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibcuda-real.so => not found\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let want = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), want.into_iter().collect());
    }

    fn image(file: PathBuf) -> Image {
        let files = BTreeMap::from([("usr/bin/x".into(), file)]);
        Image { name: "x:1".into(), files, entrypoint: vec![] }
    }

    #[test]
    fn a_replaced_image_leaves_the_archive_a_cluster_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("x"), dir.path().join("cache"));
        fs::copy("/bin/true", &file).unwrap();
        let given =
            |to: &str| provide(&[image(file.clone())], &cache, &dir.path().join(to)).unwrap().remove(0);
        let first = given("a");
        let bytes = fs::read(&first).unwrap();
        assert_eq!(given("b").file_name(), first.file_name(), "nothing changed");
        fs::copy("/bin/ls", &file).unwrap();
        let second = given("c");
        assert_ne!(second.file_name(), first.file_name());
        assert_eq!(fs::read(&first).unwrap(), bytes);
        let cached = fs::read_dir(&cache).unwrap().flatten().filter(|e| e.file_name() != "lock");
        assert_eq!(cached.map(|e| e.file_name()).collect::<Vec<_>>(), [second.file_name().unwrap()]);
    }

    #[test]
    fn the_same_inputs_give_the_same_archive() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(std::env::current_exe().unwrap());
        assert_eq!(image.build(dir.path()).unwrap(), image.build(dir.path()).unwrap());
    }
}
