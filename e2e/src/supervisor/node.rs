//! PID 1 of one node: its mounts, network, cgroups, GPUs, containerd and kubelet.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use super::link::Links;
use super::plane::{chain, forward_packets, search_path};
use super::table::{Program, Table};
use super::{SupervisorError, server, until};
use crate::cgroup::Hierarchies;
use crate::layout::{CONTROL_PLANE, DRIVER_ROOT, Layout, NodeLayout};

/// Sets the node up and reaps for ever. Runs in fresh namespaces, as their first process.
///
/// # Errors
/// [`SupervisorError`] if the layout does not know the node; what fails later ends the process with the reason logged.
pub fn run(state: &Path, name: &str) -> Result<(), SupervisorError> {
    let layout = Layout::read(state).map_err(SupervisorError::io("read the layout in", state.display()))?;
    let known = layout.nodes.iter().find(|n| n.name == name).cloned();
    let unknown = || std::io::Error::other("the layout does not know it");
    let node = known.ok_or_else(unknown).map_err(SupervisorError::io("start the node", name))?;
    let table = Arc::new(Table::default());
    // Mounts and the host name belong to the process, and nothing may run before them.
    mounts(&layout, &node)?;
    let inner = table.clone();
    std::thread::spawn(move || {
        if let Err(error) = set_up(&layout, &node, &inner) {
            eprintln!("{}", chain(&error));
            std::process::exit(1);
        }
        inner.keep_up()
    });
    table.reap()
}

/// A private copy-on-write view of the folders programs write to, and real folders where overlays cannot serve.
fn mounts(layout: &Layout, node: &NodeLayout) -> Result<(), SupervisorError> {
    let own = layout.node(&node.name);
    let folder = |path: &Path| fs::create_dir_all(path).map_err(SupervisorError::io("make", path.display()));
    rustix::system::sethostname(node.name.as_bytes())
        .map_err(|e| SupervisorError::io("set the host name", &node.name)(e.into()))?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: rustix::io::Errno| SupervisorError::io("mount", what)(e.into())
    };
    for name in ["etc", "opt", "var"] {
        let (upper, work) =
            (own.join("overlay").join(name).join("upper"), own.join("overlay").join(name).join("work"));
        folder(&upper)?;
        folder(&work)?;
        let options = format!("lowerdir=/{name},upperdir={},workdir={}", upper.display(), work.display());
        let options = std::ffi::CString::new(options).unwrap_or_default();
        let target = format!("/{name}");
        mount("overlay", target.as_str(), "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .map_err(failed(&target))?;
    }
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).map_err(failed("/run"))?;
    // The distribution's /var/run may be a link to /run or a folder of its own.
    for path in [
        "/var/log/pods",
        "/var/log/containers",
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/etc/cdi",
        "/run/containerd",
    ] {
        folder(Path::new(path))?;
    }
    for (source, target) in
        [("kubelet", "/var/lib/kubelet"), ("containerd", "/var/lib/containerd"), ("fake-gpu", DRIVER_ROOT)]
    {
        let source = own.join(source);
        folder(&source)?;
        folder(Path::new(target))?;
        mount_bind(&source, target).map_err(failed(target))?;
    }
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(failed("/ as shared"))?;
    let plugins = layout.programs.join("cni");
    for entry in fs::read_dir(&plugins).map_err(SupervisorError::io("read", plugins.display()))?.flatten() {
        let target = Path::new("/opt/cni/bin").join(entry.file_name());
        fs::copy(entry.path(), &target).map_err(SupervisorError::io("write", target.display()))?;
    }
    Ok(())
}

fn set_up(layout: &Layout, node: &NodeLayout, table: &Arc<Table>) -> Result<(), SupervisorError> {
    let hierarchies = Hierarchies::of_host().map_err(SupervisorError::io("find", "cgroups"))?;
    network(layout, node)?;
    if !node.gpus.is_empty() {
        install_gpus(layout, node, table)?;
    }
    let write = |path: &str, text: String| fs::write(path, text).map_err(SupervisorError::io("write", path));
    write("/etc/cni/net.d/10-e2e.conflist", cni(node).to_string())?;
    folder_and_write("/etc/containerd", "config.toml", &containerd_config(layout))?;
    folder_and_write(
        "/etc/kubernetes",
        "kubelet.json",
        &kubelet_config(layout, node, &hierarchies).to_string(),
    )?;

    let path = search_path(layout);
    let own = layout.node(&node.name);
    server::serve(&layout.socket(Some(&node.name)), path.clone(), table.clone(), Box::new(|_| None))?;
    let start = |name: &str, args: &[&str]| {
        let program = Program {
            name: name.to_owned(),
            command: std::iter::once(layout.programs.join(name).display().to_string())
                .chain(args.iter().map(|a| (*a).to_owned()))
                .collect(),
            path: path.clone(),
            log: own.join("logs").join(format!("{name}.log")),
            restarts: true,
        };
        table.start(program).map_err(SupervisorError::io("start", name))
    };
    start("containerd", &["--log-level", "info"])?;
    let ctr = |args: &[&str]| {
        let words = ["ctr", "-n", "k8s.io"].iter().chain(args).map(|w| (*w).to_owned()).collect::<Vec<_>>();
        table.run(&words, &path)
    };
    until("containerd", 60, || ctr(&["version"]).is_ok_and(|(code, ..)| code == 0))?;
    for image in &layout.images {
        let (code, _, stderr) = ctr(&["images", "import", &image.display().to_string()])
            .map_err(SupervisorError::io("import", image.display()))?;
        if code != 0 {
            let cause = std::io::Error::other(stderr);
            return Err(SupervisorError::io("import", image.display())(cause));
        }
    }
    let kubeconfig = layout.pki_file(&format!("{}.kubeconfig", node.name));
    let address = node.address().to_string();
    start(
        "kubelet",
        &[
            "--config=/etc/kubernetes/kubelet.json",
            &format!("--kubeconfig={kubeconfig}"),
            &format!("--hostname-override={}", node.name),
            &format!("--node-ip={address}"),
            "-v=2",
        ],
    )?;
    Ok(())
}

fn folder_and_write(folder: &str, name: &str, text: &str) -> Result<(), SupervisorError> {
    let path = Path::new(folder).join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .map_err(SupervisorError::io("write", path.display()))
}

fn network(layout: &Layout, node: &NodeLayout) -> Result<(), SupervisorError> {
    let links = Links::connect()?;
    links.up("lo")?;
    // The cluster's supervisor moves the link in as soon as it sees this namespace.
    until("eth0", 20, || links.exists("eth0"))?;
    links.address("eth0", node.address(), 24)?;
    links.up("eth0")?;
    links.route([0, 0, 0, 0].into(), 0, CONTROL_PLANE)?;
    for other in layout.nodes.iter().filter(|n| n.name != node.name) {
        links.route(other.pod_network(), 24, other.address())?;
    }
    forward_packets()
}

fn install_gpus(layout: &Layout, node: &NodeLayout, table: &Table) -> Result<(), SupervisorError> {
    let program = layout.artifacts.join("fake-gpu").display().to_string();
    let artifacts = layout.artifacts.display().to_string();
    let words =
        [&program, "install", "--root", DRIVER_ROOT, "--host-root", DRIVER_ROOT, "--node", &node.name];
    let more = ["--gpus", &node.gpus, "--artifacts", &artifacts];
    let command: Vec<String> = words.iter().chain(&more).map(|w| (*w).to_owned()).collect();
    // Through the table: this process reaps every child, so no other wait would see this one end.
    let failed = SupervisorError::io("install the GPUs of", &node.name);
    match table.run(&command, &search_path(layout)) {
        Ok((0, ..)) => Ok(()),
        Ok((.., stderr)) => Err(failed(std::io::Error::other(stderr.trim().to_owned()))),
        Err(error) => Err(failed(error)),
    }
}

fn cni(node: &NodeLayout) -> serde_json::Value {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "e2e",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": format!("{}/24", node.pod_network())}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn containerd_config(layout: &Layout) -> String {
    // Lowering oom_score_adj needs CAP_SYS_RESOURCE (bit 24), which root lacks in many sandboxes.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("0").trim();
    let may_lower = u64::from_str_radix(effective, 16).unwrap_or(0) >> 24 & 1 == 1;
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "vgpu-dra/pause:dev"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.runtime']
  enable_cdi = true
  restrict_oom_score_adj = {restrict}
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"#,
        restrict = !may_lower,
        runc = layout.runc.display(),
    )
}

fn kubelet_config(layout: &Layout, node: &NodeLayout, hierarchies: &Hierarchies) -> serde_json::Value {
    let file = |name: &str| layout.pki_file(name);
    serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address().to_string(),
        "port": 10250,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file(&format!("{}-serving.crt", node.name)),
        "tlsPrivateKeyFile": file(&format!("{}-serving.key", node.name)),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}/{}", layout.cgroup, node.name),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["pods"],
        "failCgroupV1": !hierarchies.is_v1(),
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        "clusterDNS": ["10.96.0.10"],
        // The disk is the host's and shared; its fullness says nothing about this node.
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
        "oomScoreAdj": 0,
    })
}
