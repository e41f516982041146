//! The limiter on the host: copied out of the plugin's image into a folder named by its contents, so that containers of
//! an older plugin keep the one they were started with.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::cdi::LimiterFiles;
use crate::error::PrepareError;
use crate::file;

const FILES: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];

/// Installs what is in `from`; gives the host's files and a version.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn install(from: &Path, state: &Path) -> Result<(LimiterFiles, String), PrepareError> {
    let mut contents = Vec::new();
    let mut hash = Sha256::new();
    for name in FILES {
        let path = from.join(name);
        let bytes = std::fs::read(&path).map_err(PrepareError::io("read", &path))?;
        hash.update(&bytes);
        contents.push((name, bytes));
    }
    let version: String = hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    let folder = state.join("limiter").join(&version);
    file::folder(&folder)?;
    for (name, bytes) in contents {
        let path = folder.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(&bytes) {
            file::write(&path, &bytes)?;
        }
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(PrepareError::io("set the mode of", &path))?;
    }
    let files = LimiterFiles { cuda: folder.join(FILES[0]), nvml: folder.join(FILES[1]) };
    Ok((files, format!("{}-{version}", env!("CARGO_PKG_VERSION"))))
}
