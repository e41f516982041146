//! A call to the API server: what its URL and body ask for, and doing it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::kind::{by_plural, kinds};
use crate::selector::Filter;
use crate::status::Refused;
use crate::store::{Author, Form, Key, Store};

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// GET of one object.
    Get,
    /// GET of many.
    List,
    /// GET of many and what happens to them.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH of any form.
    Patch,
    /// DELETE of one object.
    Delete,
}

impl Verb {
    /// Whether it changes anything.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it does.
    pub verb: Verb,
    /// Plural of the kind, for example `resourceclaims`.
    pub plural: &'static str,
    /// Namespace; empty for cluster-scoped objects and for lists of all.
    pub namespace: String,
    /// Name; empty for lists and creations.
    pub name: String,
    /// `status`, `binding`, `eviction` or empty.
    pub subresource: String,
    /// What was sent.
    pub body: Value,
    pub(crate) kind: usize,
    pub(crate) query: HashMap<String, String>,
    form: Form,
}

impl Call {
    /// Reads a request.
    pub(crate) fn read(
        method: &str,
        path: &str,
        query: HashMap<String, String>,
        content_type: &str,
        body: &[u8],
    ) -> Result<Self, Refused> {
        let unknown = || Refused::code(404, "the server could not find the requested resource");
        let mut parts = path.split('/').filter(|p| !p.is_empty());
        let group = match parts.next() {
            Some("api") => "",
            Some("apis") => parts.next().ok_or_else(unknown)?,
            _ => return Err(unknown()),
        };
        let version = parts.next().ok_or_else(unknown)?;
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest[..] {
            ["namespaces", namespace, _, ..] if by_plural(group, rest[2]).is_some() => {
                (namespace, &rest[2..])
            }
            _ => ("", &rest[..]),
        };
        let plural = rest.first().copied().ok_or_else(unknown)?;
        let kind = by_plural(group, plural).filter(|k| kinds()[*k].version == version).ok_or_else(unknown)?;
        let name = rest.get(1).copied().unwrap_or_default();
        let subresource = rest.get(2).copied().unwrap_or_default();
        let known = &kinds()[kind];
        let served = match subresource {
            "" => true,
            "status" => known.status,
            "binding" | "eviction" => known.kind == "Pod" && method == "POST",
            _ => false,
        };
        if !served || (known.namespaced && !name.is_empty() && namespace.is_empty()) {
            return Err(unknown());
        }
        let is = |flag: &str| query.get(flag).is_some_and(|v| v == "true" || v == "1");
        let verb = match method {
            "GET" if name.is_empty() && is("watch") => Verb::Watch,
            "GET" if name.is_empty() => Verb::List,
            "GET" => Verb::Get,
            "POST" => Verb::Create,
            "PUT" => Verb::Update,
            "PATCH" => Verb::Patch,
            "DELETE" if !name.is_empty() => Verb::Delete,
            _ => {
                return Err(Refused::code(
                    405,
                    "the server does not allow this method on the requested resource",
                ));
            }
        };
        let form = match (verb, content_type.split(';').next().unwrap_or_default()) {
            (Verb::Patch, "application/json-patch+json") => Form::JsonPatch,
            (Verb::Patch, "application/merge-patch+json") => Form::MergePatch,
            (Verb::Patch, "application/strategic-merge-patch+json") if !known.group.starts_with("vgpu") => {
                Form::StrategicPatch
            }
            (Verb::Patch, "application/apply-patch+yaml") => Form::Apply { force: is("force") },
            (Verb::Patch, other) => {
                return Err(Refused::code(
                    415,
                    format!("the body of the request was in an unknown format {other:?}"),
                ));
            }
            _ => Form::Put,
        };
        let body = match body {
            [] => Value::Null,
            body => serde_json::from_slice(body).map_err(|e| Refused::bad_request(e.to_string()))?,
        };
        if matches!(form, Form::Apply { .. }) && query.get("fieldManager").is_none_or(String::is_empty) {
            return Err(Refused::bad_request(
                "PatchOptions.meta.k8s.io: fieldManager: Required value: is required for apply patch",
            ));
        }
        Ok(Self {
            verb,
            plural: &known.plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            body,
            kind,
            query,
            form,
        })
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|v| v == "true" || v == "1")
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    pub(crate) fn filter(&self) -> Result<Filter, Refused> {
        Filter::parse(self.plural, &self.namespace, self.text("labelSelector"), self.text("fieldSelector"))
    }

    /// Does it. HTTP status and body; watches are not for here.
    pub(crate) fn answer(&self, store: &mut Store) -> Result<(u16, Value), Refused> {
        let manager = match self.text("fieldManager") {
            "" => "unknown",
            manager => manager,
        };
        let author = Author { manager, status: self.subresource == "status" };
        let key = self.key();
        match (self.verb, self.subresource.as_str()) {
            (Verb::Get, _) => Ok((200, (*store.get(self.kind, &key)?).clone())),
            (Verb::List | Verb::Watch, _) => self.list(store),
            (Verb::Create, "binding") => {
                store.bind(&key, &self.body)?;
                Ok((201, success()))
            }
            (Verb::Create, "eviction") => {
                store.evict(&key, &self.body)?;
                Ok((201, success()))
            }
            (Verb::Create, _) if !self.name.is_empty() => {
                Err(Refused::code(405, "the server does not allow this method on the requested resource"))
            }
            (Verb::Create, _) => {
                let made = store.create(self.kind, &self.namespace, self.body.clone(), manager, false)?;
                Ok((201, (*made).clone()))
            }
            (Verb::Update | Verb::Patch, _) => {
                let stored = store.write(self.kind, &key, &self.body, self.form, author)?;
                Ok((200, (*stored).clone()))
            }
            (Verb::Delete, _) => Ok((200, (*store.delete(self.kind, &key, &self.body)?).clone())),
        }
    }

    fn list(&self, store: &Store) -> Result<(u16, Value), Refused> {
        let (filter, known) = (self.filter()?, &kinds()[self.kind]);
        let limit: usize = self.text("limit").parse().unwrap_or(0);
        // `<version>/<namespace>/<name>`: the page goes on after it, and is gone once that version is.
        let mut version = store.version();
        let from = match self.text("continue").splitn(3, '/').collect::<Vec<_>>()[..] {
            [began, namespace, name] => {
                // What happens between two pages comes through a watch from the first.
                version = began.parse().unwrap_or(0);
                if version < store.compacted() {
                    return Err(Refused::gone(
                        "The provided continue parameter is too old to display a consistent list result.",
                    ));
                }
                Some((namespace.to_owned(), name.to_owned()))
            }
            [""] => None,
            _ => return Err(Refused::bad_request("continue key is not valid")),
        };
        let (mut items, mut next, mut last) = (Vec::new(), String::new(), None);
        for (key, object) in store.list(self.kind, &filter, from.as_ref()) {
            if limit > 0 && items.len() == limit {
                let (namespace, name): Key = last.unwrap_or_default();
                next = format!("{version}/{namespace}/{name}");
                break;
            }
            items.push((**object).clone());
            last = Some(key.clone());
        }
        let body = json!({
            "apiVersion": known.api_version(), "kind": format!("{}List", known.kind),
            "metadata": {"resourceVersion": version.to_string(), "continue": next},
            "items": items,
        });
        Ok((200, body))
    }
}

fn success() -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"})
}
