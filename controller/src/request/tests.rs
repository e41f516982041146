use std::sync::Arc;

use serde_json::json;
use vgpu_allocator::Policy as EnginePolicy;
use vgpu_api::MIB;
use vgpu_api::names::DRIVER;

use super::*;

const FIELD: &str = "spec.devices.requests[gpu]";

/// The way a claim likes best.
fn read_claim(request: Value, config: Value) -> Result<Asked, Invalid> {
    read_with_class(request, config, json!([]))
}

fn read_with_class(request: Value, config: Value, class_config: Value) -> Result<Asked, Invalid> {
    let mut exactly = json!({"deviceClassName": "gpu.vgpu-dra.io"});
    exactly.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let devices = json!({"requests": [{"name": "gpu", "exactly": exactly}], "config": config});
    read_devices(devices, class_config).map(|ways| ways.into_iter().next().unwrap())
}

/// Every way of a claim.
fn read_devices(devices: Value, class_config: Value) -> Result<Vec<Asked>, Invalid> {
    let claim = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"devices": devices}});
    let claim: Claim = serde_json::from_value(claim).unwrap();
    let class: DeviceClass = serde_json::from_value(json!({
        "metadata": {"name": "gpu.vgpu-dra.io"},
        "spec": {"config": class_config},
    }))
    .unwrap();
    let class = Arc::new(class);
    let (selectors, shapes) = (Selectors::default(), Shapes::default());
    let known = Known {
        classes: &|name| (name == "gpu.vgpu-dra.io").then(|| class.clone()),
        is_ours: &|name| name.ends_with("gpu.vgpu-dra.io"),
        selectors: &selectors,
        shapes: &shapes,
        attribute: &|_| Arc::default(),
        fits: &|request| request.count < 9,
        defaults: Placement { node: Some(Policy::Binpack), gpu: Some(Policy::Binpack), topology: None },
    };
    read(&claim, &known).map_err(|unread| match unread {
        Unread::Invalid(invalid) => invalid,
        Unread::New => panic!("no GPU was read"),
    })
}

fn amounts(amounts: Value) -> Result<(MemoryAsk, u32), String> {
    let asked = read_claim(json!({"capacity": {"requests": amounts}}), json!([]));
    asked.map(|a| (a.requests[0].memory, a.requests[0].cores)).map_err(|i| i.note)
}

fn share_config(placement: Value) -> Value {
    let parameters =
        json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig", "placement": placement});
    json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}])
}

#[test]
fn amounts_are_read_and_rounded_up_to_a_mebibyte() {
    assert_eq!(amounts(json!({"memory": "7500Mi", "cores": "30"})), Ok((MemoryAsk::Bytes(7500 * MIB), 30)));
    assert_eq!(amounts(json!({"memory": "1"})), Ok((MemoryAsk::Bytes(MIB), 0)));
    assert_eq!(amounts(json!({"memoryPercent": "50"})), Ok((MemoryAsk::Percent(50), 0)));
    assert_eq!(amounts(json!({})), Ok((MemoryAsk::All, 0)));
}

#[test]
fn wrong_amounts_are_named_with_field_value_and_cure() {
    let field = format!("{FIELD}.exactly.capacity.requests");
    assert_eq!(
        amounts(json!({"cores": "120"})),
        Err(format!("{field}.cores: 120 is not a percentage; write 0 to 100"))
    );
    assert_eq!(
        amounts(json!({"memory": "1Gi", "memoryPercent": "10"})),
        Err(format!("{field}: memory (1Gi) and memoryPercent (10) exclude each other; keep one"))
    );
    assert_eq!(
        amounts(json!({"vram": "1Gi"})),
        Err(format!(
            "{field}: GPUs have no capacity \"vram\"; there are memory, memoryPercent, cores, shares"
        ))
    );
}

#[test]
fn a_selector_that_does_not_compile_is_named_by_its_field() {
    let selectors = json!([{"cel": {"expression": "true"}}, {"cel": {"expression": "device.nope"}}]);
    let invalid = read_claim(json!({"selectors": selectors}), json!([])).unwrap_err();
    assert_eq!(invalid.reason, "SelectorFailed");
    let want = format!(
        "{FIELD}.exactly.selectors[1].cel.expression: selector \"device.nope\" does not compile: a device has no nope"
    );
    assert_eq!(invalid.note, want);
}

#[test]
fn an_unknown_class_is_named() {
    let asked = read_claim(json!({"deviceClassName": "h300.gpu.vgpu-dra.io"}), json!([]));
    let invalid = asked.unwrap_err();
    assert_eq!(invalid.reason, "UnknownClass");
    assert!(
        invalid
            .note
            .starts_with("spec.devices.requests[gpu].exactly.deviceClassName: there is no DeviceClass")
    );
}

#[test]
fn another_drivers_class_in_the_same_claim_is_refused() {
    let invalid = read_claim(json!({"deviceClassName": "gpu.nvidia.com"}), json!([])).unwrap_err();
    assert_eq!(invalid.reason, "MixedDrivers");
}

#[test]
fn the_claims_configuration_lies_over_the_classs() {
    let class = share_config(json!({"node": "Spread", "gpu": "Spread"}));
    let asked = read_with_class(json!({}), share_config(json!({"gpu": "Binpack"})), class).unwrap();
    assert_eq!(
        (asked.requests[0].gpu_policy, asked.node_policies.as_slice()),
        (EnginePolicy::Binpack, [Policy::Spread].as_slice())
    );
    let sources: Vec<&str> = asked.config.iter().filter_map(|c| c["source"].as_str()).collect();
    assert_eq!(sources, ["FromClass", "FromClaim"]);
}

#[test]
fn a_misspelt_policy_is_named_with_its_place() {
    let invalid = read_claim(json!({}), share_config(json!({"gpu": "Bin"}))).unwrap_err();
    assert_eq!(invalid.reason, "InvalidShareConfig");
    let want = "spec.devices.config[0].opaque.parameters.placement.gpu: unknown variant `Bin`, expected one of `Binpack`, `Spread`, `LeastFragmentation`";
    assert_eq!(invalid.note, want);
}

#[test]
fn all_and_admin_access_are_read() {
    let all = read_claim(json!({"allocationMode": "All"}), json!([])).unwrap();
    assert!(all.requests[0].all && all.requests[0].count == 1);
    let admin = read_claim(json!({"adminAccess": true}), json!([])).unwrap();
    assert_eq!(admin.requests[0].memory, MemoryAsk::Nothing);
    let both = json!({"adminAccess": true, "capacity": {"requests": {"memory": "1Gi"}}});
    assert_eq!(read_claim(both, json!([])).unwrap_err().reason, "InvalidAmount");
    assert_eq!(read_claim(json!({"allocationMode": "Some"}), json!([])).unwrap_err().reason, "NotSupported");
}

#[test]
fn alternatives_are_ways_in_their_order_each_with_its_own_configuration() {
    let sub =
        |name: &str, count: u32| json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io", "count": count});
    let list = |name: &str, subs: Value| json!({"name": name, "firstAvailable": subs});
    let config = json!([
        {"requests": ["gpu/many"], "opaque": share_config(json!({"node": "Spread"}))[0]["opaque"]},
    ]);
    let requests = json!([
        list("gpu", json!([sub("one", 1), sub("many", 4)])),
        list("aux", json!([sub("a", 1), sub("b", 2)]))
    ]);
    let ways = read_devices(json!({"requests": requests, "config": config}), json!([])).unwrap();
    let names =
        |way: &Asked| way.requests.iter().map(|r| format!("{} x{}", r.name, r.count)).collect::<Vec<_>>();
    let found: Vec<_> = ways.iter().map(names).collect();
    assert_eq!(
        found,
        [
            ["gpu/one x1", "aux/a x1"],
            ["gpu/one x1", "aux/b x2"],
            ["gpu/many x4", "aux/a x1"],
            ["gpu/many x4", "aux/b x2"],
        ]
    );
    let policies: Vec<usize> = ways.iter().map(|w| w.node_policies.len()).collect();
    assert_eq!(policies, [0, 0, 1, 1]);
}

#[test]
fn more_ways_than_are_tried_do_not_grow_without_bound() {
    let subs: Vec<Value> =
        (0..8).map(|n| json!({"name": format!("s{n}"), "deviceClassName": "gpu.vgpu-dra.io"})).collect();
    let requests: Vec<Value> =
        (0..32).map(|n| json!({"name": format!("r{n}"), "firstAvailable": subs})).collect();
    let ways = read_devices(json!({"requests": requests}), json!([])).unwrap();
    assert_eq!(ways.len(), WAYS);
    assert_eq!(ways[0].requests.len(), 32);
}

#[test]
fn of_more_ways_than_are_tried_those_that_lead_nowhere_are_left_out() {
    // Nine GPUs are nowhere.
    let sub =
        |name: &str, count: u32| json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io", "count": count});
    let request = |n: u32| {
        let subs: Vec<Value> = (0..8).map(|s| sub(&format!("s{s}"), if s == 5 { 1 } else { 9 })).collect();
        json!({"name": format!("r{n}"), "firstAvailable": subs})
    };
    let names = |count: u32| -> Vec<String> {
        let requests: Vec<Value> = (0..count).map(request).collect();
        let ways = read_devices(json!({"requests": requests}), json!([])).unwrap();
        ways.iter().map(|w| w.requests[0].name.clone()).collect()
    };
    assert_eq!(names(3), ["r0/s5"]);
    assert_eq!(names(2).len(), 64, "few enough to try all");
}

#[test]
fn configuration_is_for_the_alternatives_it_names_or_all_of_a_request() {
    let sub = |name: &str| json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io"});
    let requests = json!([{"name": "gpu", "firstAvailable": [sub("a"), sub("b")]}]);
    let entry = |requests: Value| {
        let opaque = json!({"driver": "other.example.com", "parameters": {}});
        json!({"requests": requests, "opaque": opaque})
    };
    let config = json!([entry(json!(["gpu/b"])), entry(json!(["gpu"])), entry(json!([]))]);
    let ways = read_devices(json!({"requests": requests, "config": config}), json!([])).unwrap();
    let named = |way: &Asked| way.config.iter().map(|c| c["requests"].clone()).collect::<Vec<_>>();
    assert_eq!(named(&ways[0]), [json!(["gpu"]), Value::Null]);
    assert_eq!(named(&ways[1]), [json!(["gpu/b"]), json!(["gpu"]), Value::Null]);
}

#[test]
fn a_constraint_is_about_the_requests_it_names_or_all() {
    let requests = json!([
        {"name": "a", "exactly": {"deviceClassName": "gpu.vgpu-dra.io"}},
        {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu.vgpu-dra.io"}]},
    ]);
    let constraints = json!([
        {"matchAttribute": "resource.kubernetes.io/numaNode"},
        {"requests": ["b"], "distinctAttribute": "gpu.vgpu-dra.io/uuid"},
    ]);
    let ways = read_devices(json!({"requests": requests, "constraints": constraints}), json!([])).unwrap();
    let found: Vec<_> = ways[0].constraints.iter().map(|c| (c.rule, c.requests.clone())).collect();
    assert_eq!(found, [(Rule::Match, [0, 1].into()), (Rule::Distinct, [1].into())]);
}

#[test]
fn claims_of_a_pod_must_agree_on_the_node_policy() {
    assert_eq!(node_policy(&[], Some(Policy::Spread)), Ok(EnginePolicy::Spread));
    assert_eq!(node_policy(&[Policy::Spread, Policy::Spread], None), Ok(EnginePolicy::Spread));
    assert_eq!(
        node_policy(&[Policy::Spread, Policy::Binpack], None).unwrap_err().reason,
        "ContradictingPlacement"
    );
}

#[test]
fn more_gpus_than_an_allocation_holds_are_refused_with_the_cure() {
    let request = |name: &str, count: u32| json!({"name": name, "exactly": {"deviceClassName": "gpu.vgpu-dra.io", "count": count}});
    let devices = |counts: [u32; 2]| json!({"requests": [request("a", counts[0]), request("b", counts[1])]});
    assert!(read_devices(devices([31, 1]), json!([])).is_ok());
    let invalid = read_devices(devices([31, 2]), json!([])).unwrap_err();
    assert_eq!(invalid.reason, "TooManyDevices");
    assert_eq!(
        invalid.note,
        "spec.devices.requests: they ask for 33 GPUs, and an allocation holds 32 at most; make several claims of it"
    );
    // An alternative that is too long is none.
    let alternative =
        |name: &str, count: u32| json!({"name": name, "deviceClassName": "gpu.vgpu-dra.io", "count": count});
    let list = json!({"requests": [{"name": "gpu", "firstAvailable": [alternative("many", 40), alternative("few", 2)]}]});
    let ways = read_devices(list, json!([])).unwrap();
    assert_eq!((ways.len(), ways[0].requests[0].name.as_str()), (1, "gpu/few"));
}

#[test]
fn topology_and_oversubscription_come_from_the_class_unless_the_claim_says_otherwise() {
    let config = |body: Value| {
        let mut parameters = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig"});
        parameters.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}])
    };
    let allowed = json!({"oversubscription": "Allowed"});
    let class = config(json!({"placement": {"topology": "Require"}, "memory": allowed, "cores": allowed}));
    let own = config(json!({"cores": {"oversubscription": "Forbidden"}}));
    let asked = read_with_class(json!({"count": 2}), own, class.clone()).unwrap();
    let request = &asked.requests[0];
    assert_eq!(request.topology, vgpu_allocator::Topology::Require);
    assert_eq!(request.oversubscribed, Oversubscribed { memory: true, cores: false });
    // The same is read back of the allocation it leads to.
    let written: Vec<_> = asked.config.iter().map(|c| serde_json::from_value(c.clone()).unwrap()).collect();
    assert_eq!(oversubscribed_by(&written, "gpu"), request.oversubscribed);
    assert_eq!(oversubscribed_by(&written[..1], "gpu"), Oversubscribed { memory: true, cores: true });
    let plain = read_claim(json!({"count": 2}), json!([])).unwrap();
    assert_eq!(plain.requests[0].topology, vgpu_allocator::Topology::Prefer);
    // Who only looks takes nothing that could be promised twice.
    let look = read_with_class(json!({"adminAccess": true}), json!([]), class).unwrap();
    assert_eq!(look.requests[0].oversubscribed, Oversubscribed::default());
}
