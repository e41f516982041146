//! Label and field selectors of lists and watches.

use serde_json::Value;

use crate::status::Refused;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

/// What a list or watch is limited to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Namespace; empty for all.
    pub(crate) namespace: String,
    labels: Vec<(String, Operator)>,
    /// Path, value, whether they must be equal.
    fields: Vec<(String, String, bool)>,
}

/// Splits at commas outside of parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found.retain(|t| !t.is_empty());
    found
}

fn label(term: &str) -> Option<(String, Operator)> {
    let set = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    if let Some((key, values)) = term.split_once(" notin ") {
        return Some((key.trim().to_owned(), Operator::NotIn(set(values)?)));
    }
    if let Some((key, values)) = term.split_once(" in ") {
        return Some((key.trim().to_owned(), Operator::In(set(values)?)));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some((key.trim().to_owned(), Operator::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((key, value)) = term.split_once('=') {
        let value = value.trim_start_matches('=').trim();
        return Some((key.trim().to_owned(), Operator::In(vec![value.to_owned()])));
    }
    match term.strip_prefix('!') {
        Some(key) => Some((key.trim().to_owned(), Operator::Missing)),
        None => Some((term.to_owned(), Operator::Exists)),
    }
}

/// Fields the server can select a kind by; anything else is refused, as the real one does.
fn supported(plural: &str, field: &str) -> bool {
    match field {
        "metadata.name" | "metadata.namespace" => true,
        "spec.nodeName" => matches!(plural, "pods" | "resourceslices"),
        "spec.driver" => plural == "resourceslices",
        "status.phase" | "spec.schedulerName" => plural == "pods",
        "regarding.name" | "regarding.kind" | "reason" | "type" => plural == "events",
        _ => false,
    }
}

impl Filter {
    /// Everything in a namespace.
    pub(crate) fn all_in(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for one that cannot be read or that the kind does not support.
    pub(crate) fn parse(plural: &str, namespace: &str, labels: &str, fields: &str) -> Result<Self, Refused> {
        let mut filter = Self { namespace: namespace.to_owned(), ..Self::default() };
        for term in terms(labels) {
            let found = label(term);
            filter.labels.push(
                found.ok_or_else(|| Refused::bad_request(format!("unable to parse requirement {term:?}")))?,
            );
        }
        for term in terms(fields) {
            let (equal, split) = match term.split_once("!=") {
                Some(split) => (false, Some(split)),
                None => (true, term.split_once("==").or_else(|| term.split_once('='))),
            };
            let Some((path, value)) = split.filter(|(path, _)| supported(plural, path)) else {
                return Err(Refused::bad_request(format!("field label not supported: {term}")));
            };
            filter.fields.push((path.to_owned(), value.to_owned(), equal));
        }
        Ok(filter)
    }

    /// Whether an object is within it.
    pub(crate) fn takes(&self, object: &Value) -> bool {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        if !self.namespace.is_empty() && text(&object["metadata"]["namespace"]) != self.namespace {
            return false;
        }
        let labels = &object["metadata"]["labels"];
        let label_holds = |(key, operator): &(String, Operator)| {
            let value = labels[key.as_str()].as_str();
            match operator {
                Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
                Operator::NotIn(values) => !value.is_some_and(|v| values.iter().any(|w| w == v)),
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
            }
        };
        let field_holds = |(path, want, equal): &(String, String, bool)| {
            let value = path.split('.').fold(object, |at, key| &at[key]);
            (text(value) == *want) == *equal
        };
        self.labels.iter().all(label_holds) && self.fields.iter().all(field_holds)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(labels: &str, fields: &str, want: bool) {
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "a"}}, "spec": {"nodeName": "n"}});
        assert_eq!(Filter::parse("pods", "", labels, fields).unwrap().takes(&pod), want, "{labels} {fields}");
    }

    #[test]
    fn labels_are_selected_by_value_set_and_presence() {
        check("app=a", "", true);
        check("app in (b, a),!other", "", true);
        check("app notin (a)", "", false);
        check("other", "", false);
        check("other!=x", "", true);
    }

    #[test]
    fn fields_are_selected_and_unknown_ones_refused() {
        check("", "spec.nodeName=n,metadata.name!=q", true);
        check("", "spec.nodeName==m", false);
        assert_eq!(Filter::parse("pods", "", "", "spec.driver=x").unwrap_err().code, 400);
    }
}
