//! JSON patches, merge patches, and strategic merge patches as far as their lists have keys here.

use serde_json::Value;

use crate::status::Refused;
use crate::store::Form;

/// Key that tells elements of a list apart in strategic patches; `""` for a set of plain values.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "finalizers" => Some(""),
        "ownerReferences" => Some("uid"),
        "conditions" => Some("type"),
        "containers"
        | "initContainers"
        | "volumes"
        | "schedulingGates"
        | "resourceClaims"
        | "resourceClaimStatuses" => Some("name"),
        _ => None,
    }
}

fn strategic(live: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Default::default());
    }
    let Some(live) = live.as_object_mut() else { return };
    for (field, value) in patch {
        if value.is_null() {
            live.remove(field);
            continue;
        }
        let at = live.entry(field.clone()).or_insert(Value::Null);
        match (value.as_array(), merge_key(field)) {
            (Some(elements), Some(key)) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                let Some(list) = at.as_array_mut() else { continue };
                for element in elements {
                    let same = |e: &&mut Value| {
                        if key.is_empty() { **e == *element } else { e[key] == element[key] }
                    };
                    let delete = element["$patch"] == "delete";
                    match list.iter_mut().find(same) {
                        Some(_) if delete => list.retain(|e| e[key] != element[key]),
                        Some(found) => strategic(found, element),
                        None if delete => {}
                        None => list.push(element.clone()),
                    }
                }
            }
            (Some(_), None) => *at = value.clone(),
            (None, _) => strategic(at, value),
        }
    }
}

/// `old` with a patch of one of the three forms.
///
/// # Errors
/// 400 for a patch that is none, 422 for one that does not fit the object.
pub(crate) fn patched(old: &Value, body: &Value, form: Form) -> Result<Value, Refused> {
    let mut new = old.clone();
    match form {
        Form::JsonPatch => {
            let patch: json_patch::Patch = serde_json::from_value(body.clone())
                .map_err(|e| Refused::bad_request(format!("error decoding patch: {e}")))?;
            json_patch::patch(&mut new, &patch).map_err(|e| {
                Refused::invalid(
                    "",
                    &format!("the server rejected our request due to an error in our request: {e}"),
                )
            })?;
        }
        Form::StrategicPatch => strategic(&mut new, body),
        _ if !body.is_object() => return Err(Refused::bad_request("error decoding patch: not an object")),
        _ => json_patch::merge(&mut new, body),
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strategic_patch_merges_lists_by_their_keys() {
        let old = json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B"}]}});
        let patch = json!({"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "C"}]}});
        let want = json!([{"type": "A", "status": "False"}, {"type": "B"}, {"type": "C"}]);
        assert_eq!(patched(&old, &patch, Form::StrategicPatch).unwrap()["status"]["conditions"], want);
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_with_null() {
        let old = json!({"a": [1, 2], "b": {"c": 1}});
        assert_eq!(
            patched(&old, &json!({"a": [3], "b": null}), Form::MergePatch).unwrap(),
            json!({"a": [3]})
        );
    }

    #[test]
    fn a_json_patch_whose_test_fails_changes_nothing() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}, {"op": "remove", "path": "/a"}]);
        assert_eq!(patched(&json!({"a": 1}), &patch, Form::JsonPatch).unwrap_err().code, 422);
    }
}
