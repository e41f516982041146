//! What this node has to share out: its GPUs, the driver's files, the limiter. Looked at again and again, because drivers
//! are installed, loaded anew and lose GPUs while the plugin runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vgpu_api::{Gpu, Health};

use crate::cdi::{self, Spec, driver, driver_root, node};
use crate::gpus::health::HealthBook;
use crate::gpus::{Gpus, Inventory, Recovery};
use crate::host::Host;
use crate::limiter::{Installed, Limiter};
use crate::lock::FileLock;

/// Between two looks. A GPU that breaks is noticed at once through its events; this is for everything else.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same while something is wrong: what is repaired should be used soon.
pub const REPAIR_INTERVAL: Duration = Duration::from_secs(2);

/// Result of a look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Discovery {
    /// As NVML prints it; empty without a driver.
    pub driver_version: String,
    /// Highest CUDA version of the driver.
    pub cuda_driver_version: String,
    /// By minor number, those not to be published included.
    pub gpus: Vec<Gpu>,
    /// What is wrong with the node as a whole, with the cure; empty when nothing is.
    pub message: String,
    /// Where containers find the libraries the limiter stands in for.
    pub places: Vec<driver::ShimPlace>,
    /// The installed limiter.
    pub limiter: Option<Installed>,
    /// Why shares cannot be enforced; empty when they can.
    pub limiter_message: String,
}

/// Says how long a look has been under way: NVML calls may hang for ever, and no thread can be ended from outside.
#[derive(Debug, Default)]
pub struct Watchdog(Mutex<Option<Instant>>);

impl Watchdog {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Whether no look takes longer than this.
    ///
    /// # Errors
    /// One does, in words for whoever asks for the plugin's health.
    pub fn check(&self, longest: Duration) -> Result<(), String> {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match since.map(|since| since.elapsed()).filter(|time| *time > longest) {
            Some(time) => Err(format!(
                "NVML has not answered for {} s: restart the plugin, and run nvidia-smi on the node if that does not help",
                time.as_secs()
            )),
            None => Ok(()),
        }
    }
}

/// Looks.
pub struct Discoverer {
    /// Where GPUs come from.
    pub gpus: Arc<dyn Gpus>,
    /// Critical events.
    pub health: Arc<HealthBook>,
    /// The driver's root as seen here.
    pub driver_root: PathBuf,
    /// The same root as the container runtime sees it.
    pub driver_root_host: PathBuf,
    /// The driver's CDI spec; `None`: looked for below the root, else made from the root.
    pub driver_cdi_spec: Option<PathBuf>,
    /// Folder of our specs.
    pub cdi_dir: PathBuf,
    /// The limiter.
    pub limiter: Limiter,
    /// What changes the node.
    pub host: Arc<dyn Host>,
    /// Around every change.
    pub lock: FileLock,
    /// GPUs seen by this process, to tell a lost one from one that never was.
    pub known: Vec<Gpu>,
    /// UUIDs of those that were lost at the last look.
    pub lost: BTreeSet<String>,
    /// Told of every look.
    pub watchdog: Arc<Watchdog>,
    /// The limiter as installed last.
    pub installed: Option<Installed>,
}

impl Discoverer {
    /// One look, and the node's CDI spec brought up to date. Never fails: what does not work is said in the result.
    pub fn look(&mut self) -> Discovery {
        self.watchdog.set(Some(Instant::now()));
        let found = self.found();
        self.watchdog.set(None);
        found
    }

    fn found(&mut self) -> Discovery {
        let (inventory, message) = match self.gpus.list() {
            Ok(inventory) => (inventory, String::new()),
            Err(e) => (Inventory::default(), e.to_string()),
        };
        let mut found = Discovery {
            driver_version: inventory.driver_version,
            cuda_driver_version: inventory.cuda_driver_version,
            gpus: self.with_health(inventory.gpus, &inventory.recovery),
            message,
            ..Discovery::default()
        };
        if found.message.is_empty() && found.gpus.is_empty() {
            found.message = "the driver lists no GPU; run nvidia-smi on the node".to_owned();
        }
        match self.installed_limiter() {
            Ok(installed) => found.limiter = Some(installed),
            Err(message) => found.limiter_message = message,
        }
        if !found.gpus.is_empty() {
            match self.driver_spec(&found.gpus) {
                Ok(spec) => self.describe(&spec, &mut found),
                Err(e) => {
                    found.message = e.to_string();
                    found.limiter_message = e.to_string();
                }
            }
        }
        found
    }

    fn installed_limiter(&mut self) -> Result<Installed, String> {
        if let Some(installed) = self.installed.as_ref().filter(|i| self.limiter.is_there(&i.hash)) {
            return Ok(installed.clone());
        }
        let _held =
            self.lock.lock().map_err(|e| format!("cannot lock {}: {e}", self.lock.path().display()))?;
        let installed = self.limiter.install(&*self.host).map_err(|e| e.to_string())?;
        self.installed = Some(installed.clone());
        Ok(installed)
    }

    /// The listed GPUs with their health, and those that were listed before as lost.
    fn with_health(&mut self, mut listed: Vec<Gpu>, recovery: &BTreeMap<String, Recovery>) -> Vec<Gpu> {
        for gpu in &mut listed {
            let action = recovery.get(&gpu.uuid).copied();
            if self.lost.remove(&gpu.uuid) {
                tracing::info!(gpu = gpu.uuid, "the GPU answers again");
                self.health.forget(&gpu.uuid);
            } else if action == Some(Recovery::None) {
                self.health.forget_settled(&gpu.uuid);
            }
            gpu.health_message = match (action, self.health.xid(&gpu.uuid)) {
                (Some(Recovery::Reset), _) => "the driver asks for a reset: `nvidia-smi --gpu-reset`".into(),
                (Some(Recovery::Reboot), _) => "the driver asks for a reboot of the node".into(),
                (Some(Recovery::Other), _) => "the driver asks for a recovery: see `nvidia-smi -q`".into(),
                (_, Some(xid)) => format!("the driver reported the critical Xid {xid}"),
                (_, None) => String::new(),
            };
            gpu.health = if gpu.health_message.is_empty() { Health::Healthy } else { Health::Unhealthy };
        }
        for known in &self.known {
            if listed.iter().all(|g| g.uuid != known.uuid) {
                self.lost.insert(known.uuid.clone());
                let health_message = "the driver no longer answers for it".to_owned();
                listed.push(Gpu { health: Health::Unhealthy, health_message, ..known.clone() });
            }
        }
        listed.sort_by(|a, b| (a.minor, &a.uuid).cmp(&(b.minor, &b.uuid)));
        self.known.clone_from(&listed);
        listed
    }

    fn driver_spec(&self, gpus: &[Gpu]) -> Result<Spec, driver::DriverSpecError> {
        match self.driver_cdi_spec.clone().or_else(|| driver::find(&self.driver_root)) {
            Some(path) => driver::read(&path),
            None => Ok(driver_root::describe(
                &self.driver_root,
                &self.driver_root_host,
                gpus.iter().map(|g| g.minor),
            )),
        }
    }

    fn describe(&self, driver_spec: &Spec, found: &mut Discovery) {
        for gpu in found.gpus.iter_mut().filter(|g| g.unpublished.is_empty()) {
            if driver::device_edits(driver_spec, gpu.minor).is_none() {
                gpu.unpublished = format!(
                    "the driver's CDI spec has no device for /dev/nvidia{}; write it anew with `nvidia-ctk cdi generate`",
                    gpu.minor
                );
            }
        }
        found.places = driver::shim_places(&driver_spec.container_edits);
        if found.places.iter().all(|p| p.soname != driver::SHIMMED[0].0) && found.limiter_message.is_empty() {
            found.limiter_message = format!(
                "the driver's CDI spec mounts no {}; check --driver-root, or write the spec anew with `nvidia-ctk cdi generate`",
                driver::SHIMMED[0].0
            );
        }
        let spec = node::spec(driver_spec, &found.gpus);
        if spec.devices.is_empty() {
            return;
        }
        let path = cdi::node_path(&self.cdi_dir);
        let written = self.lock.lock().and_then(|_held| cdi::write(&*self.host, &path, &spec));
        if let Err(e) = written {
            found.message = format!("cannot write CDI spec {}: {e}; check --cdi-dir", path.display());
        }
    }
}

fn interval(found: &Discovery) -> Duration {
    let well = found.message.is_empty() && found.gpus.iter().all(|g| g.health == Health::Healthy);
    if well { INTERVAL } else { REPAIR_INTERVAL }
}

/// Looks every [`INTERVAL`] and after each event, and tells who listens when something changed. Ends with its listeners.
pub async fn run(mut discoverer: Discoverer, sender: watch::Sender<Arc<Discovery>>) {
    let health = discoverer.health.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval(&sender.borrow())) => {}
            () = health.changed() => {}
            () = sender.closed() => return,
        }
        // NVML calls block, sometimes for long.
        let looked = tokio::task::spawn_blocking(move || {
            let found = discoverer.look();
            (discoverer, found)
        });
        let Ok((back, found)) = looked.await else { return };
        discoverer = back;
        sender.send_if_modified(|current| {
            let changed = **current != found;
            if changed {
                tracing::info!(gpus = found.gpus.len(), message = found.message, "the node's GPUs changed");
                *current = Arc::new(found);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::driver::SHIMMED;
    use crate::gpus::GpusError;
    use crate::host::LinuxHost;
    use crate::limiter::Form;

    struct Scripted(Mutex<Result<Inventory, GpusError>>);
    impl Gpus for Scripted {
        fn list(&self) -> Result<Inventory, GpusError> {
            self.0.lock().unwrap().clone()
        }
    }

    fn gpu(n: i64) -> Gpu {
        Gpu { uuid: format!("GPU-{n}"), minor: n, memory_mib: 15104, ..Gpu::default() }
    }

    fn discoverer(dir: &std::path::Path) -> (Arc<Scripted>, Discoverer) {
        let root = dir.join("root");
        for file in ["lib/libcuda.so.1", "lib/libnvidia-ml.so.1"] {
            std::fs::create_dir_all(root.join("lib")).unwrap();
            std::fs::write(root.join(file), "").unwrap();
        }
        std::fs::create_dir_all(dir.join("image")).unwrap();
        for (soname, _) in SHIMMED {
            std::fs::write(dir.join("image").join(soname), soname).unwrap();
        }
        let inventory = Inventory { gpus: vec![gpu(0), gpu(1)], ..Inventory::default() };
        let gpus = Arc::new(Scripted(Mutex::new(Ok(inventory))));
        let discoverer = Discoverer {
            gpus: gpus.clone(),
            health: Arc::default(),
            driver_root: root,
            driver_root_host: "/".into(),
            driver_cdi_spec: None,
            cdi_dir: dir.join("cdi"),
            limiter: Limiter::new(dir.join("image"), dir.join("limiter"), Form::Shim),
            host: Arc::new(LinuxHost),
            lock: FileLock::new(dir.join("lock")),
            known: Vec::new(),
            lost: BTreeSet::new(),
            watchdog: Arc::default(),
            installed: None,
        };
        (gpus, discoverer)
    }

    #[test]
    fn a_lost_gpu_is_unhealthy_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (gpus, mut discoverer) = discoverer(dir.path());
        assert!(discoverer.look().gpus.iter().all(|g| g.health == Health::Healthy));
        gpus.0.lock().unwrap().as_mut().unwrap().gpus.truncate(1);
        let lost = discoverer.look();
        assert_eq!(lost.gpus[1].health, Health::Unhealthy);
        *gpus.0.lock().unwrap() = Err(GpusError::NoLibrary { root: "/x".into() });
        let gone = discoverer.look();
        assert!(gone.gpus.len() == 2 && gone.gpus.iter().all(|g| g.health == Health::Unhealthy));
        assert!(gone.message.starts_with("no NVIDIA driver"));
        *gpus.0.lock().unwrap() = Ok(Inventory { gpus: vec![gpu(0), gpu(1)], ..Inventory::default() });
        assert!(discoverer.look().gpus.iter().all(|g| g.health == Health::Healthy));
    }

    /// Answers when its sender is gone.
    struct Hung(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Gpus for Hung {
        fn list(&self) -> Result<Inventory, GpusError> {
            let _ = self.0.lock().unwrap().recv();
            Ok(Inventory::default())
        }
    }

    #[test]
    fn a_look_that_hangs_is_told_as_long_as_it_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let (release, hung) = std::sync::mpsc::channel();
        let (_, mut discoverer) = discoverer(dir.path());
        discoverer.gpus = Arc::new(Hung(Mutex::new(hung)));
        let watchdog = discoverer.watchdog.clone();
        assert_eq!(watchdog.check(Duration::ZERO), Ok(()));
        let look = std::thread::spawn(move || discoverer.look());
        let why = loop {
            if let Err(why) = watchdog.check(Duration::ZERO) {
                break why;
            }
            std::thread::yield_now();
        };
        assert!(why.starts_with("NVML has not answered for 0 s: restart the plugin"), "{why}");
        assert_eq!(watchdog.check(Duration::from_secs(3600)), Ok(()));
        drop(release);
        look.join().unwrap();
        assert_eq!(watchdog.check(Duration::ZERO), Ok(()));
    }

    #[test]
    fn an_event_makes_a_gpu_unhealthy() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut discoverer) = discoverer(dir.path());
        discoverer.health.note("GPU-1", 79);
        let seen: Vec<_> = discoverer.look().gpus.iter().map(|g| g.health).collect();
        assert_eq!(seen, [Health::Healthy, Health::Unhealthy]);
    }

    #[test]
    fn a_gpu_with_a_critical_event_is_healthy_again_when_it_was_reset() {
        let dir = tempfile::tempdir().unwrap();
        let (gpus, mut discoverer) = discoverer(dir.path());
        discoverer.look();
        discoverer.health.note("GPU-1", 48);
        let found = discoverer.look();
        assert_eq!(found.gpus[1].health_message, "the driver reported the critical Xid 48");
        assert_eq!(interval(&found), REPAIR_INTERVAL);
        // A reset takes the GPU away for a moment.
        gpus.0.lock().unwrap().as_mut().unwrap().gpus.truncate(1);
        discoverer.look();
        gpus.0.lock().unwrap().as_mut().unwrap().gpus.push(gpu(1));
        let found = discoverer.look();
        assert_eq!(found.gpus[1], gpu(1));
        assert_eq!(interval(&found), INTERVAL);
    }

    #[test]
    fn a_driver_that_says_what_a_gpu_needs_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let (gpus, mut discoverer) = discoverer(dir.path());
        let mut say = |action| {
            let recovery = [("GPU-1".to_owned(), action)].into();
            gpus.0.lock().unwrap().as_mut().unwrap().recovery = recovery;
            discoverer.look().gpus[1].clone()
        };
        for (action, word) in [(Recovery::Reset, "reset"), (Recovery::Reboot, "reboot")] {
            let gpu = say(action);
            assert_eq!(gpu.health, Health::Unhealthy);
            assert!(gpu.health_message.contains(word), "{}", gpu.health_message);
        }
        assert_eq!(say(Recovery::None), gpu(1));
    }

    #[test]
    fn a_node_without_driver_says_so_and_writes_no_spec() {
        let dir = tempfile::tempdir().unwrap();
        let (gpus, mut discoverer) = discoverer(dir.path());
        *gpus.0.lock().unwrap() = Err(GpusError::NoLibrary { root: "/driver-root".into() });
        let found = discoverer.look();
        assert!(found.message.contains("/driver-root"));
        assert!(found.gpus.is_empty() && found.limiter.is_some());
        assert!(!cdi::node_path(&dir.path().join("cdi")).exists());
    }

    #[test]
    fn a_gpu_the_drivers_spec_does_not_know_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut discoverer) = discoverer(dir.path());
        let path = dir.path().join("driver.json");
        std::fs::write(
            &path,
            r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":
            {"deviceNodes":[{"path":"/dev/nvidia0"}]}}],"containerEdits":{}}"#,
        )
        .unwrap();
        discoverer.driver_cdi_spec = Some(path);
        let found = discoverer.look();
        assert_eq!(found.gpus[0].unpublished, "");
        assert!(found.gpus[1].unpublished.contains("/dev/nvidia1"), "{}", found.gpus[1].unpublished);
        assert!(found.limiter_message.contains("mounts no libcuda.so.1"), "{}", found.limiter_message);
        let spec: Spec =
            serde_json::from_slice(&std::fs::read(cdi::node_path(&dir.path().join("cdi"))).unwrap()).unwrap();
        assert_eq!(spec.devices.len(), 1);
    }
}
