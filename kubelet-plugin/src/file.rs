//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::PrepareError;

/// Writes beside the target, syncs, renames, syncs the folder.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrepareError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let part = folder.join(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(PrepareError::io("write", path))
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn folder(path: &Path) -> Result<(), PrepareError> {
    fs::create_dir_all(path).map_err(PrepareError::io("create", path))
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn remove(path: &Path) -> Result<(), PrepareError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(PrepareError::io("remove", path)(e)),
        _ => Ok(()),
    }
}
