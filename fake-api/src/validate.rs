//! What the API server refuses in the kinds the driver works with.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::status::Refused;

const MAX_RESERVED: usize = 256;

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn immutable(field: &str, old: &Value, new: &Value) -> Result<(), Refused> {
    if old == new { Ok(()) } else { Err(Refused::invalid(field, "Invalid value: field is immutable")) }
}

/// Lower case letters, digits, `-` and `.`, beginning and ending with one of the first two.
fn is_subdomain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 253
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
        && name.starts_with(plain)
        && name.ends_with(plain)
}

fn is_label(name: &str) -> bool {
    is_subdomain(name) && name.len() <= 63 && !name.contains('.')
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// A write of an object; `old` is null on creation. `status` is true for the status subresource.
pub(crate) fn write(kind: &str, old: &Value, new: &Value, status: bool) -> Result<(), Refused> {
    let name = text(&new["metadata"]["name"]);
    if old.is_null() && !is_subdomain(name) {
        return Err(Refused::invalid(
            "metadata.name",
            &format!("Invalid value: {name:?}: a lowercase RFC 1123 subdomain"),
        ));
    }
    let deleting = !old["metadata"]["deletionTimestamp"].is_null();
    if deleting {
        let had: BTreeSet<&str> = list(&old["metadata"]["finalizers"]).iter().map(text).collect();
        if let Some(added) = list(&new["metadata"]["finalizers"]).iter().map(text).find(|f| !had.contains(f))
        {
            return Err(Refused::invalid(
                "metadata.finalizers",
                &format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new {added:?}"
                ),
            ));
        }
    }
    match kind {
        "Pod" => pod(old, new, status),
        "ResourceClaim" => claim(old, new, status),
        "ResourceClaimTemplate" if !old.is_null() => immutable("spec", &old["spec"], &new["spec"]),
        "ResourceClaimTemplate" => claim_spec("spec.spec", &new["spec"]["spec"]),
        "ResourceSlice" => slice(old, new),
        "ConfigMap" => config_map(new),
        "Event" if !old.is_null() => {
            let fixed = ["reason", "note", "type", "action", "regarding", "eventTime"];
            fixed.iter().try_for_each(|field| immutable(field, &old[*field], &new[*field]))
        }
        _ => Ok(()),
    }
}

fn config_map(new: &Value) -> Result<(), Refused> {
    let valid = |key: &String| {
        key.len() <= 253 && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match new["data"].as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !valid(key)) {
        Some(key) => Err(Refused::invalid(&format!("data[{key}]"), "Invalid value: a valid config key")),
        None => Ok(()),
    }
}

fn pod(old: &Value, new: &Value, status: bool) -> Result<(), Refused> {
    if status {
        return Ok(());
    }
    let gates: BTreeSet<&str> =
        list(&new["spec"]["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    if !gates.is_empty() && !new["spec"]["nodeName"].is_null() {
        return Err(Refused::invalid(
            "spec.nodeName",
            "Forbidden: cannot be set until all schedulingGates have been cleared",
        ));
    }
    if old.is_null() {
        let claims: BTreeSet<&str> =
            list(&new["spec"]["resourceClaims"]).iter().map(|c| text(&c["name"])).collect();
        for container in list(&new["spec"]["containers"]).iter().chain(list(&new["spec"]["initContainers"])) {
            for used in list(&container["resources"]["claims"]) {
                if !claims.contains(text(&used["name"])) {
                    return Err(Refused::invalid(
                        "spec.containers.resources.claims",
                        &format!("Not found: {}", used["name"]),
                    ));
                }
            }
        }
        return Ok(());
    }
    let had: BTreeSet<&str> =
        list(&old["spec"]["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    if let Some(added) = gates.difference(&had).next() {
        return Err(Refused::invalid(
            "spec.schedulingGates",
            &format!("Forbidden: only deletion is allowed, but found new scheduling gate {added:?}"),
        ));
    }
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        let gated = !list(&pod["spec"]["schedulingGates"]).is_empty();
        if let Some(map) = spec.as_object_mut() {
            for free in
                ["schedulingGates", "tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds"]
            {
                map.remove(free);
            }
        }
        (spec, gated)
    };
    let ((mut was, gated), (mut is, _)) = (fixed(old), fixed(new));
    if gated {
        // While it is gated a pod's node selection can be narrowed; that it only narrows is not looked at.
        for spec in [&mut was, &mut is] {
            spec.as_object_mut().map(|m| (m.remove("nodeSelector"), m.remove("affinity")));
        }
    }
    if was != is {
        let why = "Forbidden: pod updates may not change fields other than images, activeDeadlineSeconds, tolerations and \
                   schedulingGates";
        return Err(Refused::invalid("spec", why));
    }
    Ok(())
}

fn claim_spec(at: &str, spec: &Value) -> Result<(), Refused> {
    let mut names = BTreeSet::new();
    for (index, request) in list(&spec["devices"]["requests"]).iter().enumerate() {
        let field = format!("{at}.devices.requests[{index}]");
        let name = text(&request["name"]);
        if !is_label(name) {
            return Err(Refused::invalid(&format!("{field}.name"), &format!("Invalid value: {name:?}")));
        }
        if !names.insert(name) {
            return Err(Refused::invalid(&format!("{field}.name"), &format!("Duplicate value: {name:?}")));
        }
        let exactly = &request["exactly"];
        if exactly.is_null() == list(&request["firstAvailable"]).is_empty() {
            return Err(Refused::invalid(
                &field,
                "Invalid value: exactly one of `exactly` or `firstAvailable` is required",
            ));
        }
        if !exactly.is_null() && text(&exactly["deviceClassName"]).is_empty() {
            return Err(Refused::invalid(&format!("{field}.exactly.deviceClassName"), "Required value"));
        }
    }
    Ok(())
}

fn claim(old: &Value, new: &Value, status: bool) -> Result<(), Refused> {
    if old.is_null() {
        return claim_spec("spec", &new["spec"]);
    }
    immutable("spec", &old["spec"], &new["spec"])?;
    if !status {
        return Ok(());
    }
    let (was, is) = (&old["status"], &new["status"]);
    let (had, has) = (&was["allocation"], &is["allocation"]);
    if !had.is_null() && !has.is_null() {
        immutable("status.allocation", had, has)?;
    }
    let reserved = list(&is["reservedFor"]);
    if has.is_null() && !reserved.is_empty() {
        return Err(Refused::invalid(
            "status.reservedFor",
            "Forbidden: may not be specified when `allocated` is not set",
        ));
    }
    if reserved.len() > MAX_RESERVED {
        return Err(Refused::invalid("status.reservedFor", "Too many: must have at most 256 items"));
    }
    let uids: BTreeSet<&str> = list(&was["reservedFor"]).iter().map(|r| text(&r["uid"])).collect();
    if !old["metadata"]["deletionTimestamp"].is_null()
        && reserved.iter().any(|r| !uids.contains(text(&r["uid"])))
    {
        let why = "Forbidden: new entries may not be added while `deletionTimestamp` is set";
        return Err(Refused::invalid("status.reservedFor", why));
    }
    if had.is_null() && !has.is_null() { allocation(&new["spec"], has) } else { Ok(()) }
}

/// Only the shape is looked at: not whether the device exists, fits, or is taken.
fn allocation(spec: &Value, allocation: &Value) -> Result<(), Refused> {
    let requests: BTreeSet<&str> =
        list(&spec["devices"]["requests"]).iter().map(|r| text(&r["name"])).collect();
    for (index, result) in list(&allocation["devices"]["results"]).iter().enumerate() {
        let field = format!("status.allocation.devices.results[{index}]");
        let request = text(&result["request"]);
        if !requests.contains(request.split('/').next().unwrap_or_default()) {
            return Err(Refused::invalid(
                &format!("{field}.request"),
                &format!("Invalid value: {request:?}: must be the name of a request in the claim"),
            ));
        }
        if !is_label(text(&result["device"]))
            || text(&result["pool"]).is_empty()
            || !is_subdomain(text(&result["driver"]))
        {
            return Err(Refused::invalid(
                &field,
                "Invalid value: driver, pool and device must be set and well-formed",
            ));
        }
        if !result["shareID"].is_null() && !is_uuid(text(&result["shareID"])) {
            return Err(Refused::invalid(&format!("{field}.shareID"), "Invalid value: error validating uid"));
        }
    }
    for config in list(&allocation["devices"]["config"]) {
        if !matches!(text(&config["source"]), "FromClass" | "FromClaim") {
            return Err(Refused::invalid("status.allocation.devices.config.source", "Required value"));
        }
    }
    Ok(())
}

fn slice(old: &Value, new: &Value) -> Result<(), Refused> {
    let spec = &new["spec"];
    if !old.is_null() {
        for field in ["driver", "nodeName"] {
            immutable(&format!("spec.{field}"), &old["spec"][field], &spec[field])?;
        }
        immutable("spec.pool.name", &old["spec"]["pool"]["name"], &spec["pool"]["name"])?;
    }
    if spec["pool"]["resourceSliceCount"].as_i64().unwrap_or(0) <= 0 {
        return Err(Refused::invalid(
            "spec.pool.resourceSliceCount",
            "Invalid value: must be greater than zero",
        ));
    }
    let devices = list(&spec["devices"]);
    let most = if devices.iter().any(|d| !list(&d["taints"]).is_empty()) { 64 } else { 128 };
    if devices.len() > most {
        return Err(Refused::invalid(
            "spec.devices",
            &format!("Too many: {}: must have at most {most} items", devices.len()),
        ));
    }
    let mut names = BTreeSet::new();
    for (index, device) in devices.iter().enumerate() {
        let field = format!("spec.devices[{index}]");
        let name = text(&device["name"]);
        if !is_label(name) || !names.insert(name) {
            return Err(Refused::invalid(
                &format!("{field}.name"),
                &format!("Invalid or duplicate value: {name:?}"),
            ));
        }
        let size = |of: &str| device[of].as_object().map_or(0, serde_json::Map::len);
        if size("attributes") + size("capacity") > 32 {
            return Err(Refused::invalid(&field, "Too many: at most 32 attributes and capacities"));
        }
        let shared = device["allowMultipleAllocations"] == true;
        let policy =
            device["capacity"].as_object().into_iter().flatten().find(|(_, c)| !c["requestPolicy"].is_null());
        if let Some((capacity, _)) = policy.filter(|_| !shared) {
            return Err(Refused::invalid(
                &format!("{field}.capacity[{capacity}].requestPolicy"),
                "Forbidden: only with allowMultipleAllocations",
            ));
        }
    }
    Ok(())
}

/// What a server without a feature gate leaves out of an object.
pub(crate) fn drop_fields(kind: &str, object: &mut Value, gates_off: &BTreeSet<String>) {
    if kind != "ResourceSlice" || gates_off.is_empty() {
        return;
    }
    for device in object["spec"]["devices"].as_array_mut().into_iter().flatten() {
        let Some(device) = device.as_object_mut() else { continue };
        if gates_off.contains("DRADeviceTaints") {
            device.remove("taints");
        }
        if gates_off.contains("DRAConsumableCapacity") {
            device.remove("allowMultipleAllocations");
            for capacity in device.get_mut("capacity").and_then(Value::as_object_mut).into_iter().flatten() {
                capacity.1.as_object_mut().map(|c| c.remove("requestPolicy"));
            }
        }
    }
}
