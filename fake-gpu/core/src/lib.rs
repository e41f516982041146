//! GPUs made of one mapped file: memory, time and topology, shared by all processes of a node.
//!
//! The file is what the hardware is for real drivers. The fake `libcuda.so.1` and `libnvidia-ml.so.1` map it, in the
//! host and in containers alike; what one process allocates another cannot, and kernels of all processes share one
//! timeline per GPU. True busy time can be read here, on the host ([`Gpus::busy_nanos`], [`Gpus::status`]), and through
//! no driver call, so that tests measure limits with something the limiter cannot touch.
//!
//! Everything is changed under one lock that the kernel gives back when its holder dies. A process is known by a slot
//! whose byte it keeps locked; a slot nobody locks belongs to a dead process and is emptied by the next one that looks.
//!
//! | file | what |
//! |---|---|
//! | [`profile`] | models, and descriptions of a node's GPUs |
//! | [`layout`] | the file, byte by byte |
//! | [`timeline`], [`clock`] | which kernel runs when, and what time it is |
//! | [`Gpus`], [`Process`] | the file under its lock; one process on it |
//! | [`install`] | a driver root with libraries, device nodes and a CDI spec |
//! | [`place`] | how the libraries find their file |

pub mod clock;
mod contents;
mod exports;
pub mod install;
pub mod layout;
mod lock;
pub mod place;
mod process;
pub mod profile;
mod samples;
mod shared;
pub mod status;
pub mod timeline;

pub use place::CONTAINER_FILE;
pub use process::{Context, Kind, OFF_THE_BUS, Process, Store};
pub use shared::{Gpus, Locked};

use std::path::PathBuf;

/// What can go wrong with the GPUs.
#[derive(Debug, thiserror::Error)]
pub enum FakeGpuError {
    /// The file or something beside it.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a GPU file of this version ({why})")]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A description of GPUs that cannot be read.
    #[error("GPUs {text:?}: {why}")]
    Description {
        /// As given.
        text: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// No such GPU.
    #[error("no GPU is called {0}")]
    UnknownGpu(String),
    /// Every slot or context is taken.
    #[error("all {0} are taken")]
    Full(&'static str),
    /// The GPU has less free memory than asked.
    #[error("out of memory")]
    OutOfMemory,
    /// The GPU has fallen off the bus.
    #[error("the GPU has fallen off the bus")]
    Lost,
}
