//! One `go build` of the two modules.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{ProgramsError, create_dir, io_error, sources, wait};

/// Kubernetes release of `kube/go.mod`; stamped into the binary, without which feature defaults are wrong.
const KUBERNETES: &str = "v1.36.3";
/// containerd release of `node-tools/go.mod`.
const CONTAINERD: &str = "v2.3.7";

/// What is built by one call.
pub(crate) struct Step {
    /// For people.
    what: &'static str,
    /// Module folder below `e2e`.
    module: &'static str,
    /// Packages.
    packages: &'static [&'static str],
    /// Output below the programs' folder: a file, or a folder when it ends in `/`.
    output: &'static str,
    /// Linker stamps `variable=value`.
    stamps: &'static [(&'static str, &'static str)],
}

impl Step {
    /// In the order they are built, longest first: a failure there shows early.
    pub(crate) const ALL: [Self; 4] = [
        Self {
            what: "Kubernetes (etcd, apiserver, controller-manager, scheduler, kubelet, kubectl)",
            module: "kube",
            packages: &["."],
            output: "kube",
            stamps: &[
                ("k8s.io/component-base/version.gitVersion", KUBERNETES),
                ("k8s.io/component-base/version.gitMajor", "1"),
                ("k8s.io/component-base/version.gitMinor", "36"),
                ("k8s.io/component-base/version.gitTreeState", "clean"),
                ("k8s.io/component-base/version.buildDate", "1970-01-01T00:00:00Z"),
                ("k8s.io/client-go/pkg/version.gitVersion", KUBERNETES),
                ("k8s.io/client-go/pkg/version.gitMajor", "1"),
                ("k8s.io/client-go/pkg/version.gitMinor", "36"),
            ],
        },
        Self {
            what: "helm",
            module: "kube",
            packages: &["helm.sh/helm/v4/cmd/helm"],
            output: "helm",
            stamps: &[],
        },
        Self {
            what: "containerd",
            module: "node-tools",
            packages: &[
                "github.com/containerd/containerd/v2/cmd/containerd",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/ctr",
            ],
            output: "./",
            stamps: &[("github.com/containerd/containerd/v2/version.Version", CONTAINERD)],
        },
        Self {
            what: "CNI plugins",
            module: "node-tools",
            packages: &[
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
                "github.com/containernetworking/plugins/plugins/main/bridge",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ],
            output: "cni/",
            stamps: &[],
        },
    ];

    /// Everything that decides the result, as text.
    pub(crate) fn describe(&self) -> String {
        format!("{} {:?} {} {:?}", self.module, self.packages, self.output, self.stamps)
    }

    /// Builds it. Go writes a binary in place when it is complete, and checks for itself what is up to date.
    pub(crate) fn build(&self, folder: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<(), ProgramsError> {
        let output = folder.join(self.output);
        if self.output.ends_with('/') {
            create_dir(&output)?;
        }
        let log_path = folder.join(format!("build-{}.log", self.what.split(' ').next().unwrap_or("go")));
        let log = File::create(&log_path).map_err(io_error("create", &log_path))?;
        let errors = log.try_clone().map_err(io_error("open", &log_path))?;
        let stamps: String = self.stamps.iter().map(|(k, v)| format!(" -X {k}={v}")).collect();
        say(&format!("building {}", self.what));
        let start = Instant::now();
        // Interrupted when this process is killed, so that no build goes on for minutes by itself.
        let mut child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "INT",
                "go",
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-mod=readonly",
                "-ldflags",
                &format!("-s -w{stamps}"),
                "-o",
            ])
            .arg(&output)
            .args(self.packages)
            .current_dir(sources().join(self.module))
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| ProgramsError::Missing {
                tool: "setpriv",
                cure: format!("install the package util-linux ({e})"),
            })?;
        let built = wait(&mut child, self.what, say).map_err(io_error("wait for", &log_path))?;
        if !built {
            let text = std::fs::read_to_string(&log_path).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(5).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
            return Err(ProgramsError::Build { what: self.what, log: log_path.display().to_string(), tail });
        }
        say(&format!("built {} in {} s", self.what, start.elapsed().as_secs()));
        Ok(())
    }
}
