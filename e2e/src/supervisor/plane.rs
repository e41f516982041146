//! PID 1 of the cluster: bridge, etcd, apiserver, controller-manager, scheduler, and the nodes.

use std::path::Path;
use std::sync::Arc;

use super::link::Links;
use super::table::{Program, Table};
use super::{SupervisorError, server, until};
use crate::control::{Reply, Request};
use crate::guard::{UNSHARE, network_of, only_child};
use crate::layout::{BRIDGE, CONTROL_PLANE, Layout, NodeLayout, SERVICE};

/// Sets everything up and reaps for ever. Runs in fresh namespaces, as their first process.
///
/// # Errors
/// [`SupervisorError`] if the control plane does not come up.
pub fn run(state: &Path) -> Result<(), SupervisorError> {
    let layout = Layout::read(state).map_err(SupervisorError::io("read the layout in", state.display()))?;
    let table = Arc::new(Table::default());
    let setup = {
        let (layout, table) = (layout.clone(), table.clone());
        std::thread::spawn(move || {
            if let Err(error) = set_up(&layout, &table) {
                eprintln!("{}", chain(&error));
                // PID 1's end is the cluster's end, which is what the starter waits for.
                std::process::exit(1);
            }
            table.keep_up()
        })
    };
    drop(setup);
    table.reap()
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

fn set_up(layout: &Layout, table: &Arc<Table>) -> Result<(), SupervisorError> {
    let links = Links::connect()?;
    links.up("lo")?;
    links.bridge(BRIDGE, CONTROL_PLANE)?;
    links.address(BRIDGE, CONTROL_PLANE, 24)?;
    links.address(BRIDGE, SERVICE, 32)?;
    links.up(BRIDGE)?;
    forward_packets()?;

    let path = search_path(layout);
    let start = |program: Program| {
        let name = program.name.clone();
        table.start(program).map_err(SupervisorError::io("start", name))
    };
    start(etcd(layout, &path))?;
    start(apiserver(layout, &path))?;
    for node in &layout.nodes {
        start_node(layout, node, table, &links)?;
    }
    let (layout_, table_) = (layout.clone(), table.clone());
    // A node is more than a program: it has a link and routes, and its end is that of everything in it.
    let special = move |request: &Request| {
        let (Request::Start { program } | Request::Stop { program } | Request::Kill { program }) = request
        else {
            return None;
        };
        let node = layout_.nodes.iter().find(|n| n.name == *program)?;
        let done = match request {
            Request::Start { .. } => start_node(&layout_, node, &table_, &links),
            _ => kill_node(node, &table_),
        };
        Some(done.map(|()| Reply::Done).map_err(|e| std::io::Error::other(chain(&e))))
    };
    server::serve(&layout.socket(None), path.clone(), table.clone(), Box::new(special))?;

    // Both end at once, or go on without authentication, if they start before the apiserver's own set-up is through.
    let ready = ["kubectl", "--kubeconfig", &layout.pki_file("admin.kubeconfig"), "get", "--raw", "/readyz"];
    let ready: Vec<String> = ready.iter().map(|w| (*w).to_owned()).collect();
    until("the API server", 60, || table.run(&ready, &path).is_ok_and(|(code, ..)| code == 0))?;
    start(controller_manager(layout, &path))?;
    start(scheduler(layout, &path))?;
    Ok(())
}

fn start_node(
    layout: &Layout,
    node: &NodeLayout,
    table: &Table,
    links: &Links,
) -> Result<(), SupervisorError> {
    if running(node, table).is_some() {
        return Ok(());
    }
    let link = format!("v{}", node.index);
    links.remove(&link)?;
    let own = [
        &layout.supervisor.display().to_string(),
        "supervise-node",
        &layout.state.display().to_string(),
        &node.name,
    ]
    .map(str::to_owned);
    let program = Program {
        name: node.name.clone(),
        command: UNSHARE.iter().map(|w| (*w).to_owned()).chain(own).collect(),
        path: search_path(layout),
        log: layout.logs().join(format!("{}.log", node.name)),
        restarts: false,
    };
    let outer = table.start(program).map_err(SupervisorError::io("start the node", &node.name))?;
    let mut inner = None;
    until(&node.name, 10, || {
        let in_its_own =
            |pid: &u32| network_of(&pid.to_string()).is_some_and(|theirs| Some(theirs) != network_of("self"));
        inner = u32::try_from(outer).ok().and_then(only_child).filter(in_its_own);
        inner.is_some()
    })?;
    links.join(&link, BRIDGE, inner.unwrap_or_default(), node.address())?;
    links.route(node.pod_network(), 24, node.address())
}

/// SIGKILL to all of a node; returns when its PID 1 is gone, and with it every process and mount it had.
fn kill_node(node: &NodeLayout, table: &Table) -> Result<(), SupervisorError> {
    let inner = running(node, table).and_then(only_child);
    table.kill(&node.name).map_err(SupervisorError::io("kill the node", &node.name))?;
    let gone = || inner.is_none_or(|pid| !Path::new("/proc").join(pid.to_string()).exists());
    until(&format!("the end of {}", node.name), 20, gone)
}

/// Process id of a node's unshare.
fn running(node: &NodeLayout, table: &Table) -> Option<u32> {
    table.status().get(&node.name)?.pid.and_then(|pid| u32::try_from(pid).ok())
}

/// Routes between the nodes' pod networks.
pub(super) fn forward_packets() -> Result<(), SupervisorError> {
    let file = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(file, "1").map_err(SupervisorError::io("write", file))
}

pub(super) fn search_path(layout: &Layout) -> String {
    format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", layout.programs.display())
}

fn program(layout: &Layout, path: &str, name: &str, args: Vec<String>) -> Program {
    Program {
        name: name.to_owned(),
        command: std::iter::once(layout.programs.join(name).display().to_string()).chain(args).collect(),
        path: path.to_owned(),
        log: layout.logs().join(format!("{name}.log")),
        restarts: true,
    }
}

/// `name=value` pairs as flags.
fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(layout: &Layout, path: &str) -> Program {
    let file = |name: &str| layout.pki_file(name);
    let data = layout.state.join("etcd").display().to_string();
    let args = flags(&[
        ("name", "e2e"),
        ("data-dir", &data),
        ("listen-client-urls", "https://127.0.0.1:2379"),
        ("advertise-client-urls", "https://127.0.0.1:2379"),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        ("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        ("initial-cluster", "e2e=http://127.0.0.1:2380"),
        ("client-cert-auth", "true"),
        ("trusted-ca-file", &file("ca.crt")),
        ("cert-file", &file("etcd.crt")),
        ("key-file", &file("etcd.key")),
        // A cluster that lives for minutes has nothing to lose to a power cut.
        ("unsafe-no-fsync", "true"),
        ("snapshot-count", "10000"),
        ("log-level", "warn"),
    ]);
    program(layout, path, "etcd", args)
}

fn apiserver(layout: &Layout, path: &str) -> Program {
    let file = |name: &str| layout.pki_file(name);
    let address = CONTROL_PLANE.to_string();
    let args = flags(&[
        ("secure-port", "443"),
        ("bind-address", "0.0.0.0"),
        ("advertise-address", &address),
        ("service-cluster-ip-range", "10.96.0.0/16"),
        ("etcd-servers", "https://127.0.0.1:2379"),
        ("etcd-cafile", &file("ca.crt")),
        ("etcd-certfile", &file("etcd-client.crt")),
        ("etcd-keyfile", &file("etcd-client.key")),
        ("client-ca-file", &file("ca.crt")),
        ("tls-cert-file", &file("apiserver.crt")),
        ("tls-private-key-file", &file("apiserver.key")),
        ("kubelet-certificate-authority", &file("ca.crt")),
        ("kubelet-client-certificate", &file("kubelet-client.crt")),
        ("kubelet-client-key", &file("kubelet-client.key")),
        // Node names resolve nowhere here.
        ("kubelet-preferred-address-types", "InternalIP"),
        ("service-account-key-file", &file("sa.pub")),
        ("service-account-signing-key-file", &file("sa.key")),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("requestheader-client-ca-file", &file("front-ca.crt")),
        ("requestheader-allowed-names", "front-proxy"),
        ("requestheader-username-headers", "X-Remote-User"),
        ("requestheader-group-headers", "X-Remote-Group"),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("allow-privileged", "true"),
        ("profiling", "false"),
        ("v", "1"),
    ]);
    program(layout, path, "kube-apiserver", args)
}

fn controller_manager(layout: &Layout, path: &str) -> Program {
    let file = |name: &str| layout.pki_file(name);
    let config = file("kcm.kubeconfig");
    let args = flags(&[
        ("kubeconfig", &config),
        ("authentication-kubeconfig", &config),
        ("authorization-kubeconfig", &config),
        ("service-account-private-key-file", &file("sa.key")),
        ("root-ca-file", &file("ca.crt")),
        ("use-service-account-credentials", "true"),
        ("leader-elect", "false"),
        // The default makes a new cluster's service accounts wait for seconds.
        ("kube-api-qps", "200"),
        ("kube-api-burst", "400"),
        // Without nodes of its own the cluster may have bare ones, which nobody keeps alive.
        ("node-monitor-grace-period", if layout.nodes.is_empty() { "24h" } else { "16s" }),
        ("bind-address", "127.0.0.1"),
        ("v", "1"),
    ]);
    program(layout, path, "kube-controller-manager", args)
}

fn scheduler(layout: &Layout, path: &str) -> Program {
    let config = layout.pki_file("scheduler.kubeconfig");
    let mut args = flags(&[
        ("kubeconfig", &config),
        ("authentication-kubeconfig", &config),
        ("authorization-kubeconfig", &config),
        ("leader-elect", "false"),
        ("bind-address", "127.0.0.1"),
    ]);
    match layout.scheduler_qps {
        Some(qps) => args.extend(flags(&[
            ("kube-api-qps", &qps.to_string()),
            ("kube-api-burst", &(2 * qps).to_string()),
            ("v", "1"),
        ])),
        None => args.extend(flags(&[("v", "4")])),
    }
    program(layout, path, "kube-scheduler", args)
}
