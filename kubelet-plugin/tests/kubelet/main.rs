//! The plugin's program between a kubelet, an API server and a driver: real unix sockets, real tmpfs mounts, NVML.
//!
//! | | |
//! |---|---|
//! | [`kubelet`] | calls as the kubelet's gRPC library makes them |
//! | [`api`] | the few API objects the plugin touches |
//! | [`node`] | a node with two GPUs, and plugins on it to start, stop and kill |
//! | [`registration`], [`claims`], [`lifecycle`], [`hardware`], [`turns`], [`reports`] | the tests |
//!
//! Mounts and device nodes need root; without it every test is skipped, with that reason. The program runs itself once
//! more in a mount namespace of its own, so that nothing it mounts outlives it.

mod api;
mod claims;
mod hardware;
mod kubelet;
mod lifecycle;
mod node;
mod overhead;
mod registration;
mod reports;
mod turns;

use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::node::Node;

const IN_ITS_NAMESPACE: &str = "VGPU_TEST_IN_ITS_NAMESPACE";

type Run<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
type Test = for<'a> fn(&'a Node) -> Run<'a>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        [$((stringify!($name), (|node| Box::pin($module::$name(node))) as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = &tests![
    registration::the_kubelet_is_told_who_is_there,
    registration::slices_are_asked_for_when_they_are_missing_and_not_before,
    registration::two_instances_stand_side_by_side,
    claims::each_claim_of_a_call_gets_its_own_answer,
    claims::an_admin_looks_at_a_gpu_that_others_fill,
    claims::a_share_has_its_files_on_a_tmpfs_of_its_own,
    claims::many_claims_at_once_are_all_prepared,
    lifecycle::a_killed_plugin_goes_on_where_it_was,
    lifecycle::a_plugin_told_to_stop_leaves_containers_alone,
    lifecycle::a_damaged_checkpoint_is_told_and_rebuilt_from_specs_and_the_api,
    lifecycle::leftovers_are_removed_at_the_start,
    hardware::a_lost_gpu_is_unhealthy_until_it_answers_again,
    hardware::only_critical_events_make_a_gpu_unhealthy_and_nothing_else_is_written,
    hardware::links_that_nvml_tells_are_reported_and_published,
    hardware::gpus_others_offer_are_not_published,
    hardware::a_device_plugin_on_the_node_keeps_every_gpu_back,
    turns::shares_of_a_gpu_take_turns_as_long_as_a_plugin_lives,
    turns::what_a_claim_says_of_its_cores_is_in_its_limits,
    overhead::what_the_driver_keeps_for_a_process_is_measured_and_told,
    reports::every_metric_is_there_at_zero,
    reports::health_fails_when_the_kubelet_cannot_reach_the_plugin,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let root = rustix::process::geteuid().is_root();
    if !root && !arguments.list {
        TESTS.iter().for_each(|(name, _)| println!("skipped: {name}: mounts and device nodes need root"));
    }
    if root && !arguments.list && std::env::var_os(IN_ITS_NAMESPACE).is_none() {
        let own = std::env::current_exe().expect("this program has a path");
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private", "--"]).arg(own).args(std::env::args_os().skip(1));
        // Returns only if there is no unshare.
        eprintln!("cannot run unshare: {}", again.env(IN_ITS_NAMESPACE, "1").exec());
        return ExitCode::FAILURE;
    }
    let trial = |(name, test): &(&'static str, Test)| {
        let (name, test) = (*name, *test);
        Trial::test(name, move || run(test).map_err(|e| Failed::from(format!("{e:#}"))))
            .with_ignored_flag(!root)
    };
    libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect()).exit_code()
}

fn run(test: Test) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let node = Node::new().await?;
        let result = test(&node).await;
        if result.is_err() {
            node.dump();
        }
        result
    })
}
