//! Every example, run as its README says and compared with what its README prints.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use vgpu_e2e::cluster::Options;
use vgpu_e2e::readme::{Bindings, steps};
use vgpu_e2e::suite::{self, Test, World};

macro_rules! examples {
    ($($name:ident $folder:literal;)*) => {
        const FOLDERS: &[&str] = &[$($folder),*];
        $(fn $name(world: &World) -> anyhow::Result<()> {
            follow_readme(world, $folder)
        })*
        const EXAMPLES: &[Test] = &[$((stringify!($name), $name)),*];
    };
}

examples! {
    alternatives "alternatives";
    by_model "by-model";
    compute_limit "compute-limit";
    exclusive "exclusive";
    fractional "fractional";
    gang "gang";
    init_container "init-container";
    joined_gpus "joined-gpus";
    memory_limit "memory-limit";
    memory_percent "memory-percent";
    over_request "over-request";
    policy_a "policy-a-node-binpack-gpu-binpack";
    policy_b "policy-b-node-spread-gpu-binpack";
    policy_c "policy-c-node-binpack-gpu-spread";
    policy_d "policy-d-both-spread";
    same_numa_node "same-numa-node";
    selector "selector";
    shared_claim "shared-claim";
    two_containers_two_shares "two-containers-two-shares";
    two_gpus_one_container "two-gpus-one-container";
}

fn main() -> ExitCode {
    let mut tests: Vec<Test> = vec![("every_example_folder_has_a_test", every_example_folder_has_a_test)];
    tests.extend(EXAMPLES);
    suite::run(&Options::default(), true, &tests)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn every_example_folder_has_a_test(_: &World) -> anyhow::Result<()> {
    let folder = root().join("examples");
    let entries = std::fs::read_dir(&folder)?.flatten().filter(|e| e.path().is_dir());
    let mut found: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    ensure!(found == FOLDERS, "folders {found:?}, tests {FOLDERS:?}");
    Ok(())
}

/// How long an output may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

fn follow_readme(world: &World, example: &str) -> anyhow::Result<()> {
    let path = root().join("examples").join(example).join("README.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = kubeconfig(world)?;
    let mut bindings = Bindings::default();
    for step in steps(&text).map_err(anyhow::Error::msg)? {
        let end = Instant::now() + PATIENCE;
        loop {
            let outcome = sh(world, &config, &step.script);
            let outcome = match (&step.output, outcome) {
                (Some(expected), Ok(printed)) => bindings.matches(expected, &printed),
                (_, outcome) => outcome.map(drop),
            };
            match outcome {
                Ok(()) => break,
                // Only what is compared is only read, and may be asked again.
                Err(_) if step.output.is_some() && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(300));
                }
                Err(error) => bail!("under {:?}, {:?}: {error}", step.section, step.script.trim()),
            }
        }
    }
    Ok(())
}

/// The admin's kubeconfig, set to the test's namespace.
fn kubeconfig(world: &World) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(world.cluster.layout().pki().join("admin.kubeconfig"))?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    config["contexts"][0]["context"]["namespace"] = world.namespace.clone().into();
    let path = world.cluster.layout().state.join(format!("{}.kubeconfig", world.namespace));
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn sh(world: &World, config: &Path, script: &str) -> Result<String, String> {
    let mut command = world.cluster.command("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(root())
        .env("KUBECONFIG", config)
        .stdin(Stdio::null());
    let out = command.output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() {
        Ok(text(&out.stdout))
    } else {
        Err(format!("{} {}", text(&out.stdout), text(&out.stderr)))
    }
}
