use std::sync::Arc;

use serde_json::json;

use super::*;

const FIELD: &str = "spec.devices.requests[gpu]";

fn read_claim(request: Value, config: Value) -> Result<Asked, Invalid> {
    read_with_class(request, config, json!([]))
}

fn read_with_class(request: Value, config: Value, class_config: Value) -> Result<Asked, Invalid> {
    let mut exactly = json!({"deviceClassName": "gpu.vgpu-dra.io"});
    exactly.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let claim: ResourceClaim = serde_json::from_value(json!({
        "metadata": {"name": "c", "uid": "u"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}], "config": config}},
    }))
    .unwrap();
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
        defaults: Placement { node: Some(Policy::Binpack), gpu: Some(Policy::Binpack) },
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
fn what_this_version_cannot_do_is_said_and_not_ignored() {
    for request in [json!({"allocationMode": "All"}), json!({"adminAccess": true})] {
        assert_eq!(read_claim(request, json!([])).unwrap_err().reason, "NotSupported");
    }
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
