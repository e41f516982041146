//! What the test suites on a cluster share: one cluster per suite, a Kubernetes namespace per test, skips with reasons.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde_json::Value;

use crate::cluster::{Cluster, Options, StartError};

/// One test: its name and what it does in a namespace of its own.
pub type Test = (&'static str, fn(&World) -> anyhow::Result<()>);

/// What a test is given.
pub struct World<'a> {
    /// The cluster, with the driver installed if the suite says so.
    pub cluster: &'a Cluster,
    /// The test's own namespace; it is deleted afterwards.
    pub namespace: String,
}

/// Runs a suite one test after another on one cluster and prints as Rust's own harness does.
///
/// A machine that cannot run a cluster skips every test, with the reason.
pub fn run(options: &Options, driver: bool, tests: &[Test]) -> ExitCode {
    end_with_runner();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = tests.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let started = Cluster::start(options, &|line| eprintln!("  {line}"));
    let cluster = match started {
        Ok(cluster) => cluster,
        Err(StartError::Unavailable(reason)) => {
            for (name, _) in tests {
                println!("skipped: {name}: {reason}");
            }
            let trials =
                tests.iter().map(|(name, _)| Trial::test(*name, || Ok(())).with_ignored_flag(true)).collect();
            return libtest_mimic::run(&arguments, trials).exit_code();
        }
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if driver && let Err(error) = cluster.install_driver(&[]) {
        println!("the driver cannot be installed: {error:#}");
        cluster.dump("default");
        return ExitCode::FAILURE;
    }
    // The trials outlive this function only in the type system; the cluster is ended by hand below.
    let cluster: &'static Cluster = Box::leak(Box::new(cluster));
    let trial = |(name, test): &Test| {
        let (name, test) = (*name, *test);
        Trial::test(name, move || World::run(cluster, name, test))
    };
    let conclusion = libtest_mimic::run(&arguments, tests.iter().map(trial).collect());
    // SAFETY: the box leaked above is not used any more: every trial has run.
    let cluster = unsafe { Box::from_raw(std::ptr::from_ref(cluster).cast_mut()) };
    if let Err(error) = cluster.stop() {
        println!("the cluster left something behind: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Lets the kernel end this process with the one that runs all suites, if that has said who it is.
fn end_with_runner() {
    let runner = std::env::var("VGPU_TEST_RUNNER").ok().and_then(|pid| pid.parse().ok());
    if runner.is_some_and(|pid| Some(pid) == getppid().map(Pid::as_raw_pid)) {
        // The guard of the cluster takes it from there.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

/// Whether the run asks for soak sizes.
pub fn long() -> bool {
    std::env::var_os("VGPU_TEST_LONG").is_some()
}

impl World<'_> {
    fn run(cluster: &Cluster, name: &str, test: fn(&World) -> anyhow::Result<()>) -> Result<(), Failed> {
        let namespace: String = name.replace('_', "-").chars().take(50).collect();
        let namespace = namespace.trim_end_matches('-').to_owned();
        let world = World { cluster, namespace };
        let outcome = world.prepare().and_then(|()| test(&world));
        if outcome.is_err() {
            cluster.dump(&world.namespace);
        }
        let gone = world.kubectl(&["delete", "namespace", &world.namespace, "--timeout=90s"]);
        outcome.and(gone.map(drop)).map_err(|e| Failed::from(format!("{e:#}")))
    }

    fn prepare(&self) -> anyhow::Result<()> {
        self.kubectl(&["create", "namespace", &self.namespace])?;
        self.until("the namespace's service account", 30, || {
            Ok(self.kubectl(&["get", "serviceaccount", "default", "-n", &self.namespace]).ok())
        })
        .map(drop)
    }

    /// Runs kubectl; an error carries its words.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = self.cluster.kubectl(args).context("cannot start kubectl")?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "kubectl {}: {}", args.join(" "), stderr.trim());
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// `kubectl ... -n <own namespace>`.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn own(&self, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// An object or list as JSON, from the own namespace.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.own(&[&["get", "-o", "json"], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Applies YAML to the own namespace.
    ///
    /// # Errors
    /// What kubectl said, which for a refused object is the admission's own message.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.cluster.layout().state)?;
        file.write_all(yaml.as_bytes())?;
        self.own(&["apply", "-f", &file.path().display().to_string()]).map(drop)
    }

    /// Asks every 100 ms until there is an answer.
    ///
    /// # Errors
    /// None came in time.
    pub fn until<T>(
        &self,
        what: &str,
        seconds: u64,
        mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if Instant::now() > end {
                bail!("{what}: not after {seconds} s");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a pod is Ready and gives its node.
    ///
    /// # Errors
    /// It is not in time.
    pub fn ready(&self, pod: &str, seconds: u64) -> anyhow::Result<String> {
        self.until(&format!("pod {pod} Ready"), seconds, || {
            let pod = self.get(&["pod", pod])?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            Ok(ready.then(|| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()))
        })
    }

    /// What a command in a pod prints, trimmed.
    ///
    /// # Errors
    /// It failed; what it said.
    pub fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let args = [&["exec", "-n", &self.namespace, pod, "--"], command].concat();
        Ok(self.kubectl(&args)?.trim().to_owned())
    }

    /// Notes of the events about an object with this reason, in the own namespace.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn events(&self, object: &str, reason: &str) -> anyhow::Result<Vec<String>> {
        let list = self.get(&["events.events.k8s.io"])?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        let ours = |e: &&Value| e["regarding"]["name"] == object && e["reason"] == reason;
        Ok(events.iter().filter(ours).filter_map(|e| e["note"].as_str().map(str::to_owned)).collect())
    }
}
