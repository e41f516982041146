//! The driver on a real cluster: placement round after round, limits under attack, every component killed, admission.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use vgpu_e2e::cluster::Options;
use vgpu_e2e::suite::{self, World, long};

const MIB: u64 = 1 << 20;
const DRIVER_NAMESPACE: &str = "vgpu-dra-system";

fn main() -> ExitCode {
    suite::run(
        &Options::default(),
        true,
        &[
            ("the_four_scenarios_give_the_same_table_every_time", scenarios),
            ("two_pods_hit_their_limits_at_the_same_moment_and_neither_is_harmed", both_hit_their_limits),
            ("a_claim_that_tolerates_the_allocator_taint_is_rejected", tolerating_claims),
            ("pods_of_another_drivers_class_are_never_gated", other_drivers_pods),
            ("a_namespace_holds_no_more_than_its_quota", quota),
            ("a_pod_of_higher_priority_gets_the_place_of_others", preemption),
            ("a_pod_made_for_a_node_gets_its_gpu_there_without_a_scheduler", node_named),
            ("an_admin_looks_at_every_gpu_of_a_node_and_takes_nothing", admin_access),
            ("bad_claims_are_named_and_disturb_nobody", bad_claims),
            ("a_pod_whose_node_lost_its_room_holds_no_gpu_and_is_placed_when_there_is_room", room_is_lost),
            ("kill_9_of_every_component_while_pods_start", every_component_killed),
            ("of_two_controllers_one_acts", two_controllers),
            ("kubectl_vgpu_says_why_a_pod_is_where_it_is_and_where_another_would_go", explained),
            ("where_kube_scheduler_allocates_limits_hold_and_policies_are_refused", scheduler_mode),
            ("nothing_is_left_when_everything_is_deleted", nothing_is_left),
        ],
    )
}

/// A template of one request, and a pod that uses it.
fn share(name: &str, memory: &str, cores: u32, placement: (&str, &str), command: &[&str]) -> String {
    let (node, gpu) = placement;
    let command = serde_json::to_string(command).unwrap_or_default();
    format!(
        r#"apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: {name}}}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu.vgpu-dra.io
          capacity: {{requests: {{memory: {memory}, cores: "{cores}"}}}}
      config:
      - opaque:
          driver: gpu.vgpu-dra.io
          parameters: {{apiVersion: vgpu-dra.io/v1alpha1, kind: ShareConfig, placement: {{node: {node}, gpu: {gpu}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{{name: gpu, resourceClaimTemplateName: {name}}}]
  containers:
  - name: c
    image: vgpu-dra/workload:dev
    imagePullPolicy: Never
    command: {command}
    resources: {{claims: [{{name: gpu}}]}}
"#
    )
}

const SLEEP: &[&str] = &["/usr/bin/vgpu-workload", "sleep"];

fn uuid_in(world: &World, pod: &str) -> anyhow::Result<String> {
    world.exec(pod, &["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"])
}

fn delete_all(world: &World) -> anyhow::Result<()> {
    world.own(&["delete", "pods,resourceclaimtemplates,resourceclaims", "--all", "--timeout=60s"])?;
    world.until("claims gone", 60, || {
        let claims = world.get(&["resourceclaims"])?;
        Ok(claims["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}

fn scenarios(world: &World) -> anyhow::Result<()> {
    // Policies, and GPUs used on each node.
    let table: [((&str, &str), &[usize]); 4] = [
        (("Binpack", "Binpack"), &[2]),
        (("Spread", "Binpack"), &[1, 1]),
        (("Binpack", "Spread"), &[4]),
        (("Spread", "Spread"), &[2, 2]),
    ];
    let rounds = if long() { 20 } else { 3 };
    for round in 1..=rounds {
        for (policies, want) in table {
            let names: Vec<String> = (1..=4).map(|n| format!("p{n}")).collect();
            for name in &names {
                world.apply(&share(name, "7500Mi", 0, policies, SLEEP))?;
            }
            let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for name in &names {
                let node = world.ready(name, 60)?;
                used.entry(node).or_default().insert(uuid_in(world, name)?);
                let placed = world.until("its event", 10, || {
                    Ok(Some(world.events(name, "Placed")?).filter(|e| !e.is_empty()))
                })?;
                ensure!(placed.len() == 1, "{name} has {} Placed events", placed.len());
            }
            let found: Vec<usize> = used.values().map(BTreeSet::len).collect();
            ensure!(found == want, "round {round}, {policies:?}: {used:?}");
            delete_all(world)?;
            ensure_nothing_is_left(world).with_context(|| format!("round {round}, {policies:?}"))?;
            // Events of a name that is used again would be counted twice.
            world.own(&["delete", "events", "--all"])?;
        }
    }
    Ok(())
}

fn both_hit_their_limits(world: &World) -> anyhow::Result<()> {
    let moment = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 8;
    let at = moment.to_string();
    let greedy = ["/usr/bin/vgpu-workload", "allocate", "--start-at", &at, "--hold"];
    for (name, memory) in [("one", "4000Mi"), ("two", "5000Mi")] {
        world.apply(&share(name, memory, 0, ("Binpack", "Binpack"), &greedy))?;
    }
    let mut uuids = BTreeSet::new();
    for (name, mib) in [("one", 4000), ("two", 5000)] {
        world.ready(name, 60)?;
        uuids.insert(uuid_in(world, name)?);
        let result = world.until("its result", 40, || {
            let logs = world.own(&["logs", name])?;
            Ok(logs.lines().find(|l| l.starts_with('{')).map(str::to_owned))
        })?;
        let result: Value = serde_json::from_str(&result)?;
        ensure!(result["bytes"] == mib * MIB, "{name} got {} of {} bytes", result["bytes"], mib * MIB);
        ensure!(result["error"] == "CUDA_ERROR_OUT_OF_MEMORY", "{name} was stopped by {}", result["error"]);
    }
    ensure!(uuids.len() == 1, "not on one GPU: {uuids:?}");
    for (name, mib) in [("one", 4000), ("two", 5000)] {
        let used =
            world.exec(name, &["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"])?;
        ensure!(used == mib.to_string(), "{name} still holds {used} MiB");
    }
    Ok(())
}

fn claim(name: &str, request: &str) -> String {
    format!(
        "apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {{name: {name}}}\nspec:\n  devices:\n    requests:\n    \
         - name: gpu\n      exactly: {request}\n"
    )
}

fn tolerating_claims(world: &World) -> anyhow::Result<()> {
    for toleration in [
        "{key: vgpu-dra.io/allocator, operator: Exists}",
        "{key: vgpu-dra.io/allocator, operator: Equal, value: controller, effect: NoSchedule}",
        "{operator: Exists}",
    ] {
        let request = format!("{{deviceClassName: gpu.vgpu-dra.io, tolerations: [{toleration}]}}");
        match world.apply(&claim("tolerant", &request)) {
            Ok(()) => bail!("{toleration} was taken"),
            Err(error) => ensure!(format!("{error:#}").contains("allocator"), "{toleration}: {error:#}"),
        }
    }
    let other =
        "{deviceClassName: gpu.vgpu-dra.io, tolerations: [{key: example.com/other, operator: Exists}]}";
    world.apply(&claim("other", other))
}

fn pod_with_template(name: &str, template: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  resourceClaims: [{{name: gpu, \
         resourceClaimTemplateName: {template}}}]\n  containers:\n  - {{name: c, image: 'vgpu-dra/workload:dev', \
         imagePullPolicy: Never, resources: {{claims: [{{name: gpu}}]}}}}\n"
    )
}

fn template(name: &str, class: &str) -> String {
    format!(
        "apiVersion: resource.k8s.io/v1\nkind: ResourceClaimTemplate\nmetadata: {{name: {name}}}\nspec: {{spec: {{devices: \
         {{requests: [{{name: gpu, exactly: {{deviceClassName: {class}}}}}]}}}}}}\n"
    )
}

fn gates(world: &World, pod: &str) -> anyhow::Result<String> {
    world.own(&["get", "pod", pod, "-o", "jsonpath={.spec.schedulingGates[*].name}"])
}

fn scale_controller(world: &World, replicas: u32) -> anyhow::Result<()> {
    let replicas_flag = format!("--replicas={replicas}");
    world.kubectl(&["scale", "deployment", "vgpu-controller", "-n", DRIVER_NAMESPACE, &replicas_flag])?;
    world.until("the controllers", 60, || {
        let list = world.kubectl(&[
            "get",
            "pods",
            "-n",
            DRIVER_NAMESPACE,
            "-l",
            "app.kubernetes.io/name=vgpu-controller",
            "-o",
            "name",
        ])?;
        Ok((list.lines().count() == replicas as usize).then_some(()))
    })?;
    if replicas > 0 {
        world.kubectl(&[
            "rollout",
            "status",
            "deployment/vgpu-controller",
            "-n",
            DRIVER_NAMESPACE,
            "--timeout=60s",
        ])?;
    }
    Ok(())
}

fn other_drivers_pods(world: &World) -> anyhow::Result<()> {
    let class = "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {name: gpu.example.com}\nspec: {selectors: \
                 [{cel: {expression: 'device.driver == \"gpu.example.com\"'}}]}\n";
    world.apply(class)?;
    world.apply(&(template("theirs", "gpu.example.com") + "---\n" + &template("ours", "gpu.vgpu-dra.io")))?;
    world.apply(&claim("their-claim", "{deviceClassName: gpu.example.com}"))?;
    world.until("our template listed", 20, || {
        let listed = world.own(&[
            "get",
            "configmap",
            "vgpu-dra-claims",
            "--ignore-not-found",
            "-o",
            "jsonpath={.data}",
        ])?;
        Ok(listed.contains("template.ours").then_some(()))
    })?;
    world.own(&["delete", "configmap", "vgpu-dra-claims"])?;
    world.until("our template listed again", 20, || {
        let listed = world.own(&["get", "configmap", "vgpu-dra-claims", "--ignore-not-found"])?;
        Ok((!listed.is_empty()).then_some(()))
    })?;
    // Twice: by a template, and by a claim that stands for itself.
    let theirs = |name: &str| -> anyhow::Result<String> {
        let by_claim = pod_with_template(&format!("{name}-claim"), "their-claim")
            .replace("resourceClaimTemplateName", "resourceClaimName");
        world.apply(&(pod_with_template(name, "theirs") + "---\n" + &by_claim))?;
        Ok(gates(world, name)? + &gates(world, &format!("{name}-claim"))?)
    };
    ensure!(theirs("with-controller")?.is_empty(), "another driver's pod is gated");
    scale_controller(world, 0)?;
    world.apply(&pod_with_template("ours-without-controller", "ours"))?;
    let (theirs, ours) = (theirs("without-controller")?, gates(world, "ours-without-controller")?);
    scale_controller(world, 1)?;
    ensure!(theirs.is_empty(), "another driver's pod is gated without the controller");
    ensure!(ours == "vgpu-dra.io/allocation", "our pod has the gates {ours:?}");
    world.ready("ours-without-controller", 60)?;
    world.kubectl(&["delete", "deviceclass", "gpu.example.com"]).map(drop)
}

fn quota(world: &World) -> anyhow::Result<()> {
    let hard =
        "requests.vgpu-dra.io/memory: 10000Mi, gpu.vgpu-dra.io.deviceclass.resource.k8s.io/devices: \"3\"";
    world.apply(&format!(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: gpus}}\nspec: {{hard: {{{hard}}}}}\n"
    ))?;
    world.apply(&share("first", "6000Mi", 10, ("Binpack", "Binpack"), SLEEP))?;
    world.ready("first", 60)?;
    world.apply(&share("over", "6000Mi", 10, ("Binpack", "Binpack"), SLEEP))?;
    world.apply(&share("small", "4000Mi", 10, ("Binpack", "Binpack"), SLEEP))?;
    world.ready("small", 60)?;
    let notes = world.until("the event", 20, || {
        Ok(Some(world.events("over", "QuotaExceeded")?).filter(|e| !e.is_empty()))
    })?;
    ensure!(notes[0].contains("is 10000Mi") && notes[0].contains("asks for 6000Mi"), "{}", notes[0]);
    let counted = world.apply(&claim("fourth", "{deviceClassName: gpu.vgpu-dra.io}"));
    ensure!(counted.is_err_and(|e| format!("{e:#}").contains("exceeded quota")), "a fourth claim was taken");
    world.own(&["delete", "pod", "first", "--timeout=60s"])?;
    world.ready("over", 60).map(drop)
}

fn preemption(world: &World) -> anyhow::Result<()> {
    world.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: urgent}\nvalue: 1000\n\
         description: of a test\n",
    )?;
    // Every GPU of the cluster: two nodes with four each.
    let low: Vec<String> = (0..8).map(|n| format!("low{n}")).collect();
    for name in &low {
        world.apply(&share(name, "15000Mi", 0, ("Binpack", "Binpack"), SLEEP))?;
        world.ready(name, 60)?;
    }
    let urgent = share("urgent", "9000Mi", 0, ("Binpack", "Binpack"), SLEEP);
    let spec = "  terminationGracePeriodSeconds: 1\n";
    world.apply(&urgent.replace(spec, &format!("{spec}  priorityClassName: urgent\n")))?;
    world.ready("urgent", 60)?;
    // Its GPU is free when the kubelet has ended the victim; the object goes a moment later.
    world.until("the end of low7", 60, || {
        let left = world.own(&["get", "pods", "-o", "name"])?;
        Ok((!left.contains("low7")).then_some(()))
    })?;
    let left = world.own(&["get", "pods", "-o", "name"])?;
    ensure!(left.lines().count() == 8, "not the youngest alone went: {left}");
    let told = world.events("low7", "Preempted")?;
    ensure!(told.len() == 1 && told[0].contains("/urgent, whose priority 1000 is above 0"), "{told:?}");
    world.kubectl(&["delete", "priorityclass", "urgent"]).map(drop)
}

fn node_named(world: &World) -> anyhow::Result<()> {
    let scheduler = world.cluster.program("kube-scheduler");
    scheduler.stop()?;
    let named = |node: &str| {
        let all = share(node, "3000Mi", 0, ("Binpack", "Binpack"), SLEEP);
        all.replace("  resourceClaims", &format!("  nodeName: {node}\n  resourceClaims"))
    };
    for node in NODES {
        world.apply(&named(node))?;
    }
    for node in NODES {
        let on = world.ready(node, 60)?;
        ensure!(on == node, "{node} runs on {on}");
        let told = world.exec(node, &["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader"])?;
        ensure!(told == "3000 MiB", "on {node} it sees {told}");
    }
    Ok(scheduler.start()?)
}

fn explained(world: &World) -> anyhow::Result<()> {
    world.apply(&share("here", "9000Mi", 10, ("Binpack", "Binpack"), SLEEP))?;
    let node = world.ready("here", 60)?;
    world.apply(&share("waits", "99999Mi", 0, ("Binpack", "Binpack"), SLEEP))?;
    world
        .until("its event", 20, || Ok(Some(world.events("waits", "NotPlaced")?).filter(|e| !e.is_empty())))?;
    let ask = |words: &[&str]| -> anyhow::Result<Value> {
        let program = world.cluster.layout().artifacts.join("kubectl-vgpu").display().to_string();
        let mut command = world.cluster.command(&program);
        let out = command.args(words).args(["-n", &world.namespace, "-o", "json"]).output()?;
        ensure!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice::<Value>(&out.stdout)?[0].take())
    };
    let here = ask(&["explain", "pod/here"])?;
    ensure!(here["outcome"] == "Allocated" && here["node"] == node.as_str(), "{here}");
    let waits = ask(&["explain", "waits"])?;
    let nodes = waits["nodes"].as_array().cloned().unwrap_or_default();
    ensure!(waits["outcome"] == "NotPlaced" && nodes.len() == 2, "{waits}");
    let told =
        |n: &Value| n["note"].as_str().is_some_and(|n| n.starts_with("0/4 GPUs: 4 InsufficientMemory"));
    ensure!(nodes.iter().all(told), "{waits}");

    let file = world.cluster.layout().state.join("another.yaml");
    std::fs::write(&file, share("another", "5000Mi", 0, ("Spread", "Binpack"), SLEEP))?;
    let another = ask(&["simulate", "-f", &file.display().to_string()])?;
    // What it says beforehand is what happens.
    world.apply(&share("another", "5000Mi", 0, ("Spread", "Binpack"), SLEEP))?;
    let node = world.ready("another", 60)?;
    ensure!(another["outcome"] == "Fits" && another["node"] == node.as_str(), "{another}");
    let uuid = uuid_in(world, "another")?.to_lowercase();
    ensure!(another["gpus"][0] == uuid.as_str(), "{another} but {uuid}");
    Ok(())
}

fn scheduler_mode(world: &World) -> anyhow::Result<()> {
    world.cluster.install_driver(&["allocator=scheduler"])?;
    let outcome = scheduler_allocates(world);
    // The cluster is used by others after this.
    world.cluster.install_driver(&[])?;
    taints(world, true)?;
    outcome?;
    world.apply(&share("back", "1Gi", 0, ("Spread", "Binpack"), SLEEP))?;
    world.ready("back", 60)?;
    world
        .until("its event", 20, || Ok(Some(world.events("back", "Placed")?).filter(|e| !e.is_empty())))
        .map(drop)
}

/// Waits until all devices have the allocator's taint, or none.
fn taints(world: &World, wanted: bool) -> anyhow::Result<()> {
    world.until("the devices' taints", 60, || {
        let list = world.get(&["resourceslices"])?;
        let slices = list["items"].as_array().cloned().unwrap_or_default();
        let mut devices =
            slices.iter().flat_map(|s| s["spec"]["devices"].as_array().cloned().unwrap_or_default());
        Ok(devices.all(|d| d["taints"].is_array() == wanted).then_some(()))
    })
}

fn scheduler_allocates(world: &World) -> anyhow::Result<()> {
    taints(world, false)?;
    let placed = share("placed", "3000Mi", 30, ("Spread", "Spread"), SLEEP);
    // Policies take a moment to be loaded, and to be gone.
    world.until("the refusal of a policy", 20, || match world.apply(&placed) {
        Err(error)
            if format!("{error:#}").contains("opaque.parameters.placement: kube-scheduler allocates") =>
        {
            Ok(Some(()))
        }
        _ => world.own(&["delete", "pods,resourceclaimtemplates", "--all"]).map(|_| None),
    })?;
    world.own(&["delete", "pods,resourceclaimtemplates", "--all"])?;
    let percent = world.apply(&claim(
        "percent",
        "{deviceClassName: gpu.vgpu-dra.io, capacity: {requests: {memoryPercent: \"10\"}}}",
    ));
    ensure!(
        percent.is_err_and(|e| format!("{e:#}").contains("requests gpu: capacity.requests.memoryPercent"))
    );

    let plain = share("plain", "3000Mi", 30, ("Spread", "Spread"), SLEEP);
    let plain = plain.replace(", placement: {node: Spread, gpu: Spread}", "");
    let plain = world.until("a pod without gate", 20, || {
        world.apply(&plain)?;
        if gates(world, "plain")?.is_empty() {
            return Ok(Some(()));
        }
        world.own(&["delete", "pod", "plain", "--wait"]).map(|_| None)
    });
    plain?;
    world.ready("plain", 60)?;
    let memory =
        world.exec("plain", &["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"])?;
    ensure!(memory == "3000", "the limit is {memory}");
    world.own(&["delete", "pod", "plain", "--timeout=60s"]).map(drop)
}

fn admin_access(world: &World) -> anyhow::Result<()> {
    let request = "{deviceClassName: gpu.vgpu-dra.io, allocationMode: All, adminAccess: true}";
    let refused = world.apply(&claim("look", request));
    let names_label = |e: anyhow::Error| format!("{e:#}").contains("admin-access");
    ensure!(refused.is_err_and(names_label), "a namespace without the label may look");
    world.kubectl(&["label", "namespace", &world.namespace, "resource.kubernetes.io/admin-access=true"])?;
    world.apply(&share("before", "15000Mi", 0, ("Binpack", "Binpack"), SLEEP))?;
    let node = world.ready("before", 60)?;
    let pod = pod_with_template("look", "look")
        .replace("resourceClaimTemplateName", "resourceClaimName")
        .replace("spec:\n", &format!("spec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n"));
    world.apply(&(claim("look", request) + "---\n" + &pod))?;
    world.ready("look", 60)?;
    let gpus =
        world.exec("look", &["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"])?;
    ensure!(gpus.lines().collect::<Vec<_>>() == ["15360"; 4], "the admin sees {gpus}");
    let found = world.get(&["resourceclaim", "look"])?;
    let results = found["status"]["allocation"]["devices"]["results"].as_array().cloned().unwrap_or_default();
    let looks =
        |r: &Value| r["adminAccess"] == true && r["shareID"].is_null() && r["consumedCapacity"].is_null();
    ensure!(results.len() == 4 && results.iter().all(looks), "{results:?}");
    // The node's other GPUs are as free as before.
    for name in ["one", "two", "three"] {
        world.apply(&share(name, "15000Mi", 0, ("Binpack", "Binpack"), SLEEP))?;
        let at = world.ready(name, 60)?;
        ensure!(at == node, "{name} is on {at}");
    }
    Ok(())
}

fn bad_claims(world: &World) -> anyhow::Result<()> {
    let parameters = |placement: &str| {
        format!(
            "{{deviceClassName: gpu.vgpu-dra.io}}\n      \n    config:\n    - opaque:\n        driver: gpu.vgpu-dra.io\n        \
             parameters: {{apiVersion: vgpu-dra.io/v1alpha1, kind: ShareConfig, placement: {placement}}}"
        )
    };
    let amounts =
        |amounts: &str| format!("{{deviceClassName: gpu.vgpu-dra.io, capacity: {{requests: {amounts}}}}}");
    let fails = "{deviceClassName: gpu.vgpu-dra.io, selectors: [{cel: {expression: \
                 'device.attributes[\"gpu.vgpu-dra.io\"].nothing == \"x\"'}}]}";
    let table: [(&str, String, &str, &str); 6] = [
        ("bad-field", parameters("{nod: Spread}"), "InvalidShareConfig", "unknown field `nod`"),
        ("bad-value", parameters("{gpu: Pack}"), "InvalidShareConfig", "unknown variant `Pack`"),
        ("bad-class", "{deviceClassName: t5.gpu.vgpu-dra.io}".into(), "UnknownClass", "t5.gpu.vgpu-dra.io"),
        ("bad-selector", fails.into(), "SelectorFailed", "guard names"),
        ("bad-cores", amounts("{cores: \"120\"}"), "InvalidAmount", "write 0 to 100"),
        ("bad-both", amounts("{memory: 1Gi, memoryPercent: \"10\"}"), "InvalidAmount", "keep one"),
    ];
    for (name, request, ..) in &table {
        let pod = format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  resourceClaims: [{{name: gpu, \
             resourceClaimName: {name}}}]\n  containers:\n  - {{name: c, image: 'vgpu-dra/workload:dev', imagePullPolicy: \
             Never, resources: {{claims: [{{name: gpu}}]}}}}\n"
        );
        world.apply(&(claim(name, request) + &pod)).with_context(|| (*name).to_owned())?;
    }
    world.apply(&share("good", "1Gi", 10, ("Binpack", "Binpack"), SLEEP))?;
    world.ready("good", 60)?;
    for (name, _, reason, words) in &table {
        let notes =
            world.until(name, 30, || Ok(Some(world.events(name, reason)?).filter(|e| !e.is_empty())))?;
        ensure!(
            notes[0].contains(&format!("ResourceClaim {name}:")) && notes[0].contains(words),
            "{name}: {}",
            notes[0]
        );
        let phase = world.own(&["get", "pod", name, "-o", "jsonpath={.status.phase}"])?;
        ensure!(phase == "Pending", "{name} is {phase}");
    }
    Ok(())
}

/// A pod that takes CPU on a node and nothing else.
fn cpu_pod(name: &str, node: &str, cpu: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  nodeSelector: \
         {{kubernetes.io/hostname: {node}}}\n  containers:\n  - {{name: c, image: 'vgpu-dra/workload:dev', imagePullPolicy: \
         Never, resources: {{requests: {{cpu: '{cpu}'}}}}}}\n"
    )
}

fn room_is_lost(world: &World) -> anyhow::Result<()> {
    let cpus = world.kubectl(&["get", "node", "node-a", "-o", "jsonpath={.status.allocatable.cpu}"])?;
    // Half a core stays, of which the driver's own pods have a part.
    let most = format!("{}m", cpus.trim().parse::<u32>().context("CPUs")? * 1000 - 500);
    // node-b is full, so node-a is the only one that fits.
    world.apply(&cpu_pod("full-b", "node-b", &most))?;
    world.ready("full-b", 60)?;
    // The scheduler is away: the pod is allocated on node-a and not bound, and meanwhile node-a fills up.
    let scheduler = world.cluster.program("kube-scheduler");
    scheduler.stop()?;
    let wants = share("p", "7500Mi", 0, ("Binpack", "Binpack"), SLEEP).replace(
        "resources: {claims: [{name: gpu}]}",
        "resources: {claims: [{name: gpu}], requests: {cpu: 500m}}",
    );
    world.apply(&wants)?;
    let node_of = || -> anyhow::Result<Option<String>> {
        let claims = world.get(&["resourceclaims"])?;
        let pool = &claims["items"][0]["status"]["allocation"]["devices"]["results"][0]["pool"];
        Ok(pool.as_str().and_then(|p| p.strip_suffix("/gpu")).map(str::to_owned))
    };
    let first = world.until("an allocation", 30, node_of)?;
    ensure!(first == "node-a", "allocated on {first}");
    let taken = cpu_pod("full-a", "node-a", &most)
        .replace("  nodeSelector", "  priorityClassName: system-node-critical\n  nodeSelector");
    world.apply(&taken)?;
    scheduler.start()?;
    world.ready("full-a", 60)?;
    world.until("the allocation cleared", 60, || Ok(node_of()?.is_none().then_some(())))?;
    let node = world.own(&["get", "pod", "p", "-o", "jsonpath={.spec.nodeName}"])?;
    ensure!(node.is_empty(), "bound to {node}");
    // Room appears on the other node.
    world.own(&["delete", "pod", "full-b", "--timeout=30s"])?;
    let node = world.ready("p", 90)?;
    ensure!(node == "node-b", "placed on {node}");
    Ok(())
}

const NODES: [&str; 2] = ["node-a", "node-b"];

fn kill_processes(world: &World, executable: &str) -> anyhow::Result<()> {
    let mut killed = 0;
    for node in NODES {
        killed += world.cluster.kill_processes(node, executable)?;
    }
    ensure!(killed > 0, "no {executable} was running");
    Ok(())
}

/// How many pods have a condition.
fn count(world: &World, condition: &str) -> anyhow::Result<usize> {
    let path = format!(r#"jsonpath={{.items[*].status.conditions[?(@.type=="{condition}")].status}}"#);
    let statuses = world.own(&["get", "pods", "-o", &path])?;
    Ok(statuses.split_whitespace().filter(|s| *s == "True").count())
}

fn every_component_killed(world: &World) -> anyhow::Result<()> {
    type Kill = fn(&World) -> anyhow::Result<()>;
    let kills: [(&str, Kill); 4] = [
        ("controller", |w| kill_processes(w, "vgpu-controller")),
        ("plugin", |w| kill_processes(w, "vgpu-kubelet-plugin")),
        ("kubelet", |w| NODES.iter().try_for_each(|n| Ok(w.cluster.node_program(n, "kubelet").kill()?))),
        ("containerd", |w| {
            NODES.iter().try_for_each(|n| Ok(w.cluster.node_program(n, "containerd").kill()?))
        }),
    ];
    for (component, kill) in kills {
        let names: Vec<String> = (1..=4).map(|n| format!("{component}-{n}")).collect();
        for name in &names {
            world.apply(&share(name, "3000Mi", 0, ("Spread", "Binpack"), SLEEP))?;
        }
        // While pods are starting: one is on its node already, and not all of them run.
        world.until("a pod on its node", 60, || Ok((count(world, "PodScheduled")? > 0).then_some(())))?;
        kill(world).with_context(|| component.to_owned())?;
        let ready = count(world, "Ready")?;
        ensure!(ready < names.len(), "the {component} was killed too late: all pods were Ready");
        for name in &names {
            world.ready(name, 150).with_context(|| format!("after kill -9 of the {component}"))?;
            let total = world.until("the share in nvidia-smi", 30, || {
                let total = world
                    .exec(name, &["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]);
                Ok(total.ok())
            })?;
            ensure!(total == "3000", "{name} sees {total} MiB after kill -9 of the {component}");
        }
        world.cluster.wait_driver().with_context(|| format!("slices after kill -9 of the {component}"))?;
        delete_all(world)?;
        ensure_nothing_is_left(world).with_context(|| format!("after kill -9 of the {component}"))?;
    }
    Ok(())
}

fn two_controllers(world: &World) -> anyhow::Result<()> {
    scale_controller(world, 2)?;
    for n in 0..4 {
        world.apply(&share(&format!("p{n}"), "7500Mi", 0, ("Binpack", "Binpack"), SLEEP))?;
    }
    for n in 0..4 {
        world.ready(&format!("p{n}"), 60)?;
    }
    let metric = |pod: &str| -> anyhow::Result<u64> {
        let path = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:8080/proxy/metrics");
        let text = world.kubectl(&["get", "--raw", &path])?;
        let line = text.lines().find_map(|l| l.strip_prefix("vgpu_controller_pods_placed_total "));
        line.and_then(|v| v.parse().ok()).context("the metric pods_placed")
    };
    let list = world.kubectl(&[
        "get",
        "pods",
        "-n",
        DRIVER_NAMESPACE,
        "-l",
        "app.kubernetes.io/name=vgpu-controller",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ])?;
    let placed: Vec<u64> = list.split_whitespace().map(metric).collect::<Result<_, _>>()?;
    scale_controller(world, 1)?;
    ensure!(placed.len() == 2, "{} controllers", placed.len());
    ensure!(placed.iter().filter(|n| **n == 0).count() == 1, "both acted: {placed:?}");
    Ok(())
}

fn nothing_is_left(world: &World) -> anyhow::Result<()> {
    world.apply(&share("p", "3000Mi", 20, ("Binpack", "Binpack"), SLEEP))?;
    let node = world.ready("p", 60)?;
    // What is looked for below is there as long as the pod is.
    let files = share_files(world, &node)?;
    ensure!(files.len() == 3, "a share has limits, usage and a spec: {files:?}");
    ensure!(
        mounts_and_checkpoint(world, &node)?.0.contains("/run/vgpu-dra/shares/"),
        "no tmpfs of the share"
    );
    ensure!(mounts_and_checkpoint(world, &node)?.1.contains("\"shares\""), "no claim in the checkpoint");
    delete_all(world)?;
    ensure_nothing_is_left(world)
}

/// Files of shares, their slots included, and CDI specs of claims.
fn share_files(world: &World, node: &str) -> anyhow::Result<Vec<String>> {
    let find =
        ["find", "/run/vgpu-dra", "/var/run/cdi", "-type", "f", "-not", "-name", "vgpu-dra.io-gpu.json"];
    let (_, stdout, _) = world.cluster.node_run(node, &find)?;
    Ok(stdout.lines().map(str::to_owned).collect())
}

fn mounts_and_checkpoint(world: &World, node: &str) -> anyhow::Result<(String, String)> {
    let print = |file: &str| world.cluster.node_run(node, &["cat", file]);
    Ok((print("/proc/self/mountinfo")?.1, print("/var/lib/vgpu-dra/checkpoint")?.1))
}

/// No allocation in the cluster; no share file with its slots, mount, CDI spec or checkpoint entry on any node.
fn ensure_nothing_is_left(world: &World) -> anyhow::Result<()> {
    let claims =
        world.kubectl(&["get", "resourceclaims", "-A", "-o", "jsonpath={.items[*].status.allocation}"])?;
    ensure!(claims.is_empty(), "allocations are left: {claims}");
    for node in NODES {
        let mut left = Vec::new();
        let gone = world.until("no share file and no spec", 30, || {
            left = share_files(world, node)?;
            Ok(left.is_empty().then_some(()))
        });
        gone.with_context(|| format!("{node}: {left:?}"))?;
        let (mounts, checkpoint) = mounts_and_checkpoint(world, node)?;
        ensure!(!mounts.contains("/run/vgpu-dra/shares/"), "a share's tmpfs is left on {node}");
        ensure!(
            !checkpoint.contains("\"shares\""),
            "the checkpoint of {node} still has claims: {checkpoint}"
        );
    }
    Ok(())
}
