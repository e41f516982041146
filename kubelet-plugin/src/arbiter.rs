//! The thread that arbitrates between the shares of this node's GPUs.
//!
//! Which shares there are stands in the checkpoint, whoever wrote it; how it is done in [`vgpu_arbiter`]. During an upgrade
//! two instances run side by side and one of them arbitrates: a lock says which. When it ends, by whatever, the other goes
//! on within [`TAKE_OVER`]; until then shares go by their buckets alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::fs::inotify;
use tokio::sync::oneshot;
use vgpu_api::Oversubscription;
use vgpu_arbiter::seat::Files;
use vgpu_arbiter::{Arbitration, Clock, Fds, Member, Monotonic};

use crate::lock::FileLock;
use crate::share_files::SharePaths;
use crate::state::State;

/// How often an instance tries to become the one that arbitrates.
pub const TAKE_OVER: Duration = Duration::from_millis(100);

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The checkpoint is looked at so often though nothing says that it has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The running thread; stopped when dropped.
#[derive(Debug)]
pub struct Thread {
    /// Its other end notices when this one goes.
    control: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.control.take());
        if let Some(thread) = self.thread.take() {
            // If it has died, whoever waits for its end knows.
            let _ = thread.join();
        }
    }
}

/// Begins to arbitrate. The receiver learns that the thread has ended, which it does not by itself.
pub fn start(state: Arc<State>, turns: Counter) -> io::Result<(Thread, oneshot::Receiver<()>)> {
    let (reader, writer) = io::pipe()?;
    let (ends, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("arbiter".into()).spawn(move || {
        if let Err(error) = run(&state, &reader, &turns) {
            tracing::error!(%error, "nobody arbitrates between shares any more");
        }
        // Nobody listening means that the plugin is going down.
        let _ = ends.send(());
    })?;
    Ok((Thread { control: Some(writer), thread: Some(thread) }, ended))
}

fn run(state: &State, control: &PipeReader, turns: &Counter) -> io::Result<()> {
    let lock = FileLock::new(state.paths().arbiter_lock());
    let mut clock = Monotonic::of_this_thread();
    let _held = loop {
        if let Some(held) = lock.try_lock()? {
            break held;
        }
        let mut fds = Fds::new([control.as_raw_fd()].into_iter());
        let until = after(clock.now(), TAKE_OVER);
        clock.wait(&mut fds, until);
        if fds.is_ready(0) {
            return Ok(());
        }
    };
    let share_dir = &state.paths().share_dir;
    if rustix::fs::statfs(share_dir).is_ok_and(|found| found.f_type != TMPFS) {
        let path = share_dir.display();
        tracing::warn!(%path, "share files lie on a disk: turns may be late while it is busy; use a tmpfs, as /run is");
    }
    let checkpoint = state.paths().checkpoint();
    let watch = watch(&state.paths().state_dir);
    if let Err(error) = &watch {
        tracing::warn!(%error, "changes of the checkpoint are noticed a second late");
    }
    let others: Vec<_> = [Some(control.as_raw_fd()), watch.as_ref().ok().map(AsRawFd::as_raw_fd)]
        .into_iter()
        .flatten()
        .collect();
    let mut arbitration = Arbitration::default();
    let (mut seen, mut look_at) = (None, 0);
    let mut failing = BTreeSet::new();
    loop {
        let now = clock.now();
        if now >= look_at {
            look_at = after(now, LOOK);
            let found = identity(&checkpoint);
            if found != seen {
                // A share that is just being removed, or not whole yet: tried again.
                let failed = arbitration.set(now, members(state));
                for (member, error) in &failed {
                    if !failing.contains(&member.name) {
                        tracing::info!(share = member.name, %error, "a share takes no part in turns yet");
                    }
                }
                seen = found.filter(|_| failed.is_empty());
                failing = failed.into_iter().map(|(member, _)| member.name).collect();
            }
        }
        if arbitration.round(&mut clock, &others, look_at) {
            if is_closed(control) {
                break;
            }
            if let Ok(watch) = &watch {
                drain(watch);
            }
            look_at = 0;
        }
        turns.inc_by(arbitration.turns().saturating_sub(turns.get()));
    }
    arbitration.release(&mut clock);
    Ok(())
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Every share with a limiter.
pub(crate) fn members(state: &State) -> Vec<Member> {
    let prepared = state.prepared();
    let claims = prepared.claims.iter();
    let shares = claims.flat_map(|(uid, claim)| claim.shares.iter().map(move |share| (uid, share)));
    shares
        .filter(|(_, share)| !share.exclusive)
        .map(|(uid, share)| {
            let paths = SharePaths::new(&state.paths().share_dir, uid, &share.share_id);
            let files = Files { limits: paths.limits, usage: paths.usage, bell: paths.bell };
            Member {
                gpu: share.uuid.clone(),
                name: format!("{uid}/{}", share.share_id),
                files,
                oversubscribed: share.cores_oversubscription == Oversubscription::Allowed,
            }
        })
        .collect()
}

/// Changes with every store, which is a rename.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    fs::metadata(path).ok().map(|found| (found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Readable when a file has been moved into the folder.
fn watch(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, folder, inotify::WatchFlags::MOVED_TO)?;
    Ok(watch)
}

fn drain(watch: &OwnedFd) {
    let mut buffer = [0u8; 4096];
    while rustix::io::read(watch.as_fd(), &mut buffer).is_ok_and(|read| read > 0) {}
}

/// Whether the other end is gone; nothing is ever written to it.
fn is_closed(control: &PipeReader) -> bool {
    let mut fds = Fds::new([control.as_raw_fd()].into_iter());
    fds.poll(0)
}
