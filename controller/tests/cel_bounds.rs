//! What hostile and random expressions may do: answer or fail, within the cost limit, and never end the process.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;
use vgpu_controller::selector::{Cause, DeviceView, Selector};

/// Far more than anything below takes, on a busy machine too.
const LONG: Duration = Duration::from_secs(10);

static DEVICE: LazyLock<DeviceView> = LazyLock::new(|| {
    let device = json!({
        "name": "gpu-0",
        "attributes": {"model": {"string": "T4"}, "minor": {"int": 1}, "version": {"version": "1.2.3"}},
        "capacity": {"memory": {"value": "16Gi"}},
    });
    DeviceView::new("d", &serde_json::from_value(device).unwrap())
});

/// What an expression says, or how it fails; in time, and without the parser or the interpreter giving up.
fn ask(text: &str) -> Result<bool, String> {
    let begun = Instant::now();
    let answer = Selector::compile(text)
        .map_err(|e| e.to_string())
        .and_then(|selector| selector.matches(&DEVICE).map_err(|e| e.to_string()));
    assert!(begun.elapsed() < LONG, "{:?} for {text:.500}", begun.elapsed());
    if let Err(error) = &answer {
        assert!(!error.contains("gave up"), "{error}");
        assert!(error.len() < 3000, "{} bytes of error", error.len());
    }
    answer
}

fn cause(text: &str) -> Option<Cause> {
    ask(text).err()?;
    Selector::compile(text).ok()?.evaluate(&DEVICE).err()
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
            "{range}.map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join().matches('(a+)+(a+)+(a+)+b{{1,50}}') || {range}.all(x, {range}.all(y, !'aaaa'.matches('(a|a)+b')))"
        ),
    ];
    for text in table {
        assert_eq!(cause(&text), Some(Cause::CostLimit), "{text}");
    }
}

#[test]
fn a_comprehension_that_ends_early_does_not_copy_its_range() {
    let text = "cel.bind(l, lists.range(100000), lists.range(100000).all(x, l.exists(y, true)))";
    assert_eq!(ask(text), Ok(true));
}

#[test]
fn patterns_cost_what_they_compile_to() {
    let made = "lists.range(100000).exists(x, 'aaaaaaaaaaaaaaaaaaaa'.matches('(a|a{1,' + string(x % 900) + '}){1}b'))";
    assert_eq!(cause(made), Some(Cause::CostLimit));
    let searched =
        "lists.range(100000).exists(x, 'aaaaaaaaaaaaaaaaaaaa'.matches('[a-z]{1,900}[a-z]{1,900}1'))";
    assert_eq!(cause(searched), Some(Cause::CostLimit));
    let large = "'a'.matches(r'\\pL{900}') || ".repeat(300);
    let error = ask(&format!("{large} true")).unwrap_err();
    assert!(error.contains("size limit") || error.contains("cost limit"), "{error}");
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
        format!("{}true{}", "(".repeat(200), ")".repeat(200)),
        format!("{}1{} == [1]", "[".repeat(200), "]".repeat(200)),
        format!("1{} == 1", "+1".repeat(n)),
        format!("[0]{} == 0", "[0]".repeat(n)),
        format!("device{} == 0", ".a".repeat(n)),
        format!("{}true", "true?true:".repeat(1000)),
        format!("true{}", "&&true".repeat(1500)),
        format!("true{}", " in [true]".repeat(900)),
        format!("[]==[]{}", "||[]==[]".repeat(1000)),
        format!("[{}].size() == 0", "[],".repeat(3000)),
        format!("{{{}}}.size() == 0", "1:1,".repeat(2000)),
        format!("dyn([{}]).sort() == []", "1,".repeat(4000)),
        "x".repeat(20_000),
        "\"".repeat(999),
        "'\\".repeat(999),
        "`".repeat(999),
        "\u{0}\u{feff}\u{202e}".repeat(100),
        "a.all(".repeat(200),
        "a.map(x,".repeat(200),
        "{".repeat(200),
        "cel.bind(x,1,".repeat(700),
        "?".repeat(n),
        ".".repeat(n),
        "a?".repeat(n),
        "b'".repeat(n),
        "// ".repeat(n),
        "9".repeat(n),
        format!("{}.5 > 1.0", "9".repeat(n)),
        format!("'a'.matches('{}')", "(".repeat(n)),
        format!("'a'.matches('{}')", "(a|".repeat(n)),
        format!("'a'.matches('{}a{}')", "(".repeat(240), ")".repeat(240)),
        format!("duration('{}') > duration('1s')", "1h".repeat(n)),
        format!("quantity('{}') == quantity('1')", "9".repeat(n)),
        format!("semver('{}.0.0') == semver('1.0.0')", "9".repeat(n)),
        format!("'{}'.format([1]) == ''", "%.999f".repeat(900)),
        format!("{}1{} == 1", "-(".repeat(120), ")".repeat(120)),
    ];
    for text in table {
        let _ = ask(&text);
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

/// Expressions that mean something, to be cut up.
static EXPRESSIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let answers = include_str!("../../e2e/cel/answers.tsv");
    let quoted = answers.lines().filter(|l| l.starts_with('"')).filter_map(|l| l.split('\t').next());
    quoted.filter_map(|q| serde_json::from_str(q).ok()).filter(|e: &String| e.len() < 200).collect()
});

/// One expression's beginning, some text, another's end.
fn spliced() -> impl Strategy<Value = String> {
    let pick = || (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (pick(), "[\\PC]{0,4}", pick()).prop_map(|((a, at), middle, (b, from))| {
        let (a, b) = (a.get(&EXPRESSIONS), b.get(&EXPRESSIONS));
        let head: String = a.chars().take(at.index(a.chars().count() + 1)).collect();
        let tail: String = b.chars().skip(from.index(b.chars().count() + 1)).collect();
        format!("{head}{middle}{tail}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_expressions_answer_or_fail_but_never_give_up(text in expression()) {
        for text in [text.clone(), format!("dyn({text}) == dyn(1)"), format!("[dyn({text})].exists(x, x == 1)")] {
            let _ = ask(&text);
        }
    }

    #[test]
    fn expressions_cut_and_joined_answer_or_fail(text in spliced()) {
        let _ = ask(&text);
        let _ = ask(&format!("dyn({text}) == 1"));
    }

    #[test]
    fn random_text_is_refused_without_harm(text in "\\PC{0,80}") {
        let _ = ask(&text);
    }

    #[test]
    fn random_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ask(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn patterns_compile_or_fail(pattern in "[a-c\\\\\\[\\](){}*+?^$.|,0-9dwsbQEpx&~-]{0,24}") {
        let quoted = serde_json::to_string(&pattern).unwrap();
        let _ = ask(&format!("'abc'.matches({quoted})"));
        let _ = ask(&format!("'abc'.matches(string(dyn({quoted})))"));
    }
}
