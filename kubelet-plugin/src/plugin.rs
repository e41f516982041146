//! Wires the parts together and runs them until told to stop.
//!
//! Order at start: look at the GPUs, repair what is prepared, serve, then register, so that the kubelet never calls a plugin
//! that cannot answer. At the end the registration socket goes first.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::arbiter;
use crate::damage;
use crate::discovery::{self, Discoverer, Discovery};
use crate::gpu_node::{self, Publisher};
use crate::gpus::Gpus;
use crate::gpus::health::HealthBook;
use crate::host::Host;
use crate::http::{self, Checks};
use crate::limiter::{Form, Limiter};
use crate::lock::FileLock;
use crate::metrics::{Metrics, NodeCollector};
use crate::overhead;
use crate::proto::dra::dra_plugin_server::DraPluginServer;
use crate::registration::RegistrationService;
use crate::service::DraService;
use crate::slices::{self, NodeSlices};
use crate::socket::{self, SocketError};
use crate::state::{Paths, State};

/// Calls under way get this long at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Where everything is. Paths are the same for the plugin, the kubelet and the container runtime, but for the driver's root.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: String,
    /// UID of the plugin's pod: makes the names of its sockets.
    pub pod_uid: String,
    /// State, share files, CDI specs.
    pub paths: Paths,
    /// The kubelet's `plugins`.
    pub plugins_dir: PathBuf,
    /// The kubelet's `plugins_registry`.
    pub registry_dir: PathBuf,
    /// Root of the driver as seen here.
    pub driver_root: PathBuf,
    /// The same root on the host.
    pub driver_root_host: PathBuf,
    /// The driver's CDI spec, as seen here; `None`: looked for.
    pub driver_cdi_spec: Option<PathBuf>,
    /// Folder of the limiter in the plugin's image.
    pub limiter_dir: PathBuf,
    /// How it gets into containers.
    pub limiter_form: Form,
    /// Where `/metrics` and `/healthz` are served.
    pub metrics_address: SocketAddr,
}

/// Why the plugin cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A folder cannot be made.
    #[error("cannot make folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The HTTP address cannot be served.
    #[error("cannot serve metrics on {address}: {source}; choose another --metrics-address")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("the kubelet's service ended: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The arbiter's thread cannot be started.
    #[error("cannot start the thread that arbitrates between shares: {0}")]
    Arbiter(io::Error),
    /// A task that runs for ever has ended.
    #[error("a task of the plugin ended")]
    Ended,
    /// A thread died.
    #[error("a thread of the plugin died: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// What the plugin acts on and through; a test passes its own.
pub struct Parts {
    /// API server.
    pub client: Client,
    /// GPUs.
    pub gpus: Arc<dyn Gpus>,
    /// Their critical events.
    pub health: Arc<HealthBook>,
    /// The node.
    pub host: Arc<dyn Host>,
}

/// Runs until `stop` completes, or a server fails. Sockets are gone when it returns.
pub async fn run(
    config: Config,
    parts: Parts,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), PluginError> {
    for path in config.paths.all() {
        parts
            .host
            .make_folder(path)
            .map_err(|source| PluginError::Folder { path: path.to_owned(), source })?;
    }
    let http_failed = |source| PluginError::Metrics { address: config.metrics_address, source };
    let http_listener = TcpListener::bind(config.metrics_address).await.map_err(http_failed)?;

    let mut discoverer = discoverer(&config, &parts);
    let watchdog = discoverer.watchdog.clone();
    let (discoverer, found) = tokio::task::spawn_blocking(move || {
        let found = discoverer.look();
        (discoverer, found)
    })
    .await?;
    if !found.message.is_empty() {
        tracing::warn!(message = found.message, "nothing to share out yet");
    }
    let (found_sender, found) = watch::channel(Arc::new(found));
    let (damage_sender, damage) = mpsc::unbounded_channel();
    let limiter = Limiter::new(config.limiter_dir.clone(), config.paths.limiter(), config.limiter_form);
    let state = Arc::new(State::new(
        config.node.clone(),
        config.paths.clone(),
        parts.host.clone(),
        limiter,
        found.clone(),
        damage_sender,
    ));
    reconcile(&state).await?;

    let metrics = Arc::new(Metrics::default());
    let (registered_sender, registered) = watch::channel(None);
    let dra_path = socket::dra_path(&config.plugins_dir, &config.pod_uid);
    let registration_path = socket::registration_path(&config.registry_dir, &config.pod_uid);
    // Dropped in reverse order: the registration socket goes first.
    let (dra_listener, dra_socket) = socket::bind(dra_path, "--plugins-dir")?;
    let (registration_listener, registration_socket) = socket::bind(registration_path, "--registry-dir")?;
    socket::remove_dead(registration_socket.path());
    socket::remove_dead(dra_socket.path());

    let (ended_sender, ended) = watch::channel(false);
    let wait_for_end = || {
        let mut ended = ended.clone();
        async move {
            // An error means that the sender is gone, which is an end too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    };
    let service = DraService::new(parts.client.clone(), state.clone(), metrics.clone());
    let dra = Server::builder()
        .add_service(DraPluginServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(dra_listener), wait_for_end());
    let registration = Server::builder()
        .add_service(RegistrationService::server(dra_socket.path(), registered_sender))
        .serve_with_incoming_shutdown(UnixListenerStream::new(registration_listener), wait_for_end());

    let collector = NodeCollector {
        state: state.clone(),
        discovery: found.clone(),
        registered: registered.clone(),
        health: parts.health.clone(),
    };
    let checks = Checks {
        dra: dra_socket.path().to_owned(),
        registration: registration_socket.path().to_owned(),
        folders: config.paths.all().map(Path::to_owned).into(),
        watchdog,
    };
    let http = axum::serve(http_listener, http::router(metrics.registry(collector), checks)).into_future();

    let (slices_sender, slices) = watch::channel(NodeSlices::default());
    let publisher = Publisher {
        client: parts.client.clone(),
        node: config.node.clone(),
        discovery: found.clone(),
        slices,
        registered,
    };
    let mut background = tokio::task::JoinSet::new();
    background.spawn(discovery::run(discoverer, found_sender));
    background.spawn(slices::run(parts.client.clone(), config.node.clone(), slices_sender));
    background.spawn(gpu_node::run(publisher));
    background.spawn(overhead::run(parts.gpus.clone(), state.clone()));
    // Dropped at the end of this function: every turn is open then.
    let (_arbiter, arbiter_ended) =
        arbiter::start(state.clone(), metrics.turns.clone()).map_err(PluginError::Arbiter)?;
    background.spawn(async {
        // An error means that the thread died, which is an end too.
        let _ = arbiter_ended.await;
    });
    background.spawn(damage::run(parts.client, state.clone(), metrics, damage));
    background.spawn(reconcile_on_change(state, found));
    tracing::info!(node = config.node, socket = %dra_socket.path().display(), "serving");

    let mut serving = std::pin::pin!(try_join(dra, registration));
    let result = tokio::select! {
        result = &mut serving => result.map(|_| ()).map_err(PluginError::from),
        result = http => result.map_err(http_failed),
        // None of them ends by itself, so one that did has failed.
        ended = background.join_next() => Err(match ended {
            Some(Err(error)) => error.into(),
            _ => PluginError::Ended,
        }),
        () = stop => {
            tracing::info!("stopping");
            drop(registration_socket);
            ended_sender.send_replace(true);
            // Calls under way may end; the kubelet repeats those that do not.
            let _ = tokio::time::timeout(GRACE, serving).await;
            Ok(())
        }
    };
    background.abort_all();
    result
}

fn discoverer(config: &Config, parts: &Parts) -> Discoverer {
    Discoverer {
        gpus: parts.gpus.clone(),
        health: parts.health.clone(),
        driver_root: config.driver_root.clone(),
        driver_root_host: config.driver_root_host.clone(),
        driver_cdi_spec: config.driver_cdi_spec.clone(),
        cdi_dir: config.paths.cdi_dir.clone(),
        limiter: Limiter::new(config.limiter_dir.clone(), config.paths.limiter(), config.limiter_form),
        host: parts.host.clone(),
        lock: FileLock::new(config.paths.lock()),
        known: Vec::new(),
        lost: BTreeSet::new(),
        watchdog: Arc::default(),
        installed: None,
    }
}

/// Repairs, and says so if it cannot: claims of running pods are better served late than by a plugin that does not start.
async fn reconcile(state: &Arc<State>) -> Result<(), PluginError> {
    let state = state.clone();
    let result = tokio::task::spawn_blocking(move || state.reconcile()).await?;
    if let Err(error) = result {
        tracing::error!(%error, "prepared claims cannot be checked now");
    }
    Ok(())
}

/// Claims whose specs could not be made without the driver get them when it appears, and new ones when it moves.
async fn reconcile_on_change(state: Arc<State>, mut found: watch::Receiver<Arc<Discovery>>) {
    let mut places = found.borrow_and_update().places.clone();
    while found.changed().await.is_ok() {
        let now = found.borrow_and_update().places.clone();
        if now != places {
            places = now;
            if reconcile(&state).await.is_err() {
                return;
            }
        }
    }
}
