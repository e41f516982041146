//! What hostile and random expressions may do: answer or fail, within the cost limit, and never end the process.

use proptest::prelude::*;
use serde_json::json;

use super::{Cause, DeviceView, Selector, SelectorError};

fn device() -> DeviceView {
    let device = json!({
        "name": "gpu-0",
        "attributes": {"model": {"string": "T4"}, "minor": {"int": 1}, "version": {"version": "1.2.3"}},
        "capacity": {"memory": {"value": "16Gi"}},
    });
    DeviceView::new("d", &serde_json::from_value(device).unwrap())
}

fn cause(text: &str) -> Option<Cause> {
    match Selector::compile(text).ok()?.matches(&device()) {
        Err(SelectorError::Evaluate { cause, .. }) => Some(cause),
        _ => None,
    }
}

#[test]
fn what_costs_too_much_ends_with_an_error() {
    let doubled = (1..30).map(|i| format!("cel.bind(a{i}, a{0} + a{0}, ", i - 1)).collect::<String>();
    let shared =
        (1..30).map(|i| format!("cel.bind(a{i}, [dyn(a{0}), dyn(a{0})], ", i - 1)).collect::<String>();
    let close = ")".repeat(30);
    let range = "lists.range(1000)";
    let table = [
        format!("{range}.all(x, {range}.all(y, {range}.all(z, true)))"),
        "lists.range(1000000000).size() > 0".to_owned(),
        format!("cel.bind(a0, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', {doubled} a29.size() > 0{close}"),
        format!("cel.bind(a0, {range}, {doubled} a29.size() > 0{close}"),
        format!("cel.bind(a0, 'x', {shared} '%s'.format([dyn(a29)]) == ''{close}"),
        format!("cel.bind(a0, 'x', {shared} a29 == a29{close}"),
        format!("'x'{} == ''", ".replace('', 'xx')".repeat(40)),
        format!("{range}.map(x, {range}).map(l, l.distinct()).size() > 0"),
        format!(
            "{range}.map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join().matches('(a+)+(a+)+(a+)+b{{1,50}}') || {range}.all(x, {range}.all(y, 'aaaa'.matches('(a|a)+b')))"
        ),
    ];
    for text in table {
        assert_eq!(cause(&text), Some(Cause::CostLimit), "{text}");
    }
}

#[test]
fn text_of_any_depth_is_refused_or_answered() {
    let n = 2500;
    let table = [
        "(".repeat(n),
        "[".repeat(n),
        "!".repeat(n),
        "-".repeat(n),
        format!("{}true{}", "(".repeat(n), ")".repeat(n)),
        format!("1{} == 1", "+1".repeat(n)),
        format!("[0]{} == 0", "[0]".repeat(n)),
        format!("device{} == 0", ".a".repeat(n)),
        format!("{}true", "true?true:".repeat(1000)),
        format!("true{}", "&&true".repeat(1500)),
        format!("true{}", " in [true]".repeat(900)),
        "x".repeat(20_000),
        "\"".repeat(999),
        "\u{0}\u{feff}\u{202e}".repeat(100),
        "a.all(".repeat(200),
        "{".repeat(200),
    ];
    for text in table {
        if let Ok(selector) = Selector::compile(&text) {
            let _ = selector.matches(&device());
        }
    }
}

#[test]
fn types_that_double_at_each_step_are_refused() {
    let doubled = (1..60).map(|i| format!("cel.bind(a{i}, {{a{0}: a{0}}}, ", i - 1)).collect::<String>();
    let error = Selector::compile(&format!("cel.bind(a0, 1, {doubled} true{}", ")".repeat(60))).unwrap_err();
    assert!(error.to_string().contains("types are too large"), "{error}");
}

/// Expressions of the grammar, most of them of fitting types.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(|i| i.to_string()),
        any::<u8>().prop_map(|u| format!("{u}u")),
        Just("1.5".to_owned()),
        Just("true".to_owned()),
        Just("null".to_owned()),
        "[a-z%é]{0,4}".prop_map(|s| format!("'{s}'")),
        Just("x".to_owned()),
        Just("device.driver".to_owned()),
        Just("device.attributes".to_owned()),
        Just("device.attributes['d'].minor".to_owned()),
        Just("device.attributes['d'].?model".to_owned()),
        Just("device.capacity['d'].memory".to_owned()),
        Just("semver('1.2.3')".to_owned()),
        Just("lists.range(9)".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let infix =
            prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "in"]);
        let none = prop::sample::select(vec![
            "size",
            "sum",
            "max",
            "sort",
            "isSorted",
            "lowerAscii",
            "trim",
            "first",
            "hasValue",
            "value",
            "asInteger",
            "major",
            "reverse",
            "flatten",
            "join",
            "distinct",
        ]);
        let one = prop::sample::select(vec![
            "contains",
            "indexOf",
            "split",
            "matches",
            "find",
            "findAll",
            "charAt",
            "substring",
            "add",
            "sub",
            "compareTo",
            "orValue",
            "or",
            "format",
            "includes",
            "flatten",
        ]);
        let fold = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter", "sortBy"]);
        let two = prop::sample::select(vec!["all", "exists", "existsOne", "transformList", "transformMap"]);
        prop_oneof![
            (inner.clone(), infix, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), none).prop_map(|(a, f)| format!("{a}.{f}()")),
            (inner.clone(), one, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.replace({b}, '{{}}')")),
            (inner.clone(), fold, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}(x, {b})")),
            (inner.clone(), two, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}(i, x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("cel.bind(x, {a}, {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            inner.clone().prop_map(|a| format!("dyn({a})")),
            inner.clone().prop_map(|a| format!("string(dyn({a})) == ''")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_expressions_answer_or_fail_but_never_give_up(text in expression()) {
        for text in [text.clone(), format!("dyn({text}) == dyn(1)"), format!("[dyn({text})].exists(x, x == 1)")] {
            match Selector::compile(&text) {
                Err(error) => prop_assert!(!error.to_string().contains("gave up"), "{error}"),
                Ok(selector) => {
                    if let Err(error) = selector.matches(&device()) {
                        prop_assert!(!error.to_string().contains("gave up"), "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn random_text_is_refused_without_harm(text in "\\PC{0,80}") {
        if let Err(error) = Selector::compile(&text) {
            prop_assert!(!error.to_string().contains("gave up"), "{error}");
        }
    }
}
