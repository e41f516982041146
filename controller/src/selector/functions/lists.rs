//! Lists and sets.

use std::cmp::Ordering;

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Value};
use super::call as any;

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    use Value::{Bool, Int, List};
    if let [List(list), ..] = args
        && let Err(cause) = meter.spend(list.len() as u64)
    {
        return Some(Err(cause));
    }
    Some(match (function, args) {
        ("isSorted", [List(list)]) => is_sorted(list, meter),
        ("sum", [List(list)]) => sum(list, meter),
        ("min", [List(list)]) => extreme(list, Ordering::Less, meter),
        ("max", [List(list)]) => extreme(list, Ordering::Greater, meter),
        ("indexOf", [List(list), wanted]) => position(list.iter().enumerate(), wanted, meter),
        ("lastIndexOf", [List(list), wanted]) => position(list.iter().enumerate().rev(), wanted, meter),
        ("slice", [List(list), Int(from), Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            let slice = range.filter(|(from, to)| from <= to).and_then(|(from, to)| list.get(from..to));
            slice.map(|s| s.to_vec().into()).ok_or_else(|| {
                Cause::other(format!("cannot slice({from}, {to}), list is length {}", list.len()))
            })
        }
        ("flatten", [List(list)]) => flatten(list, 1, meter),
        ("flatten", [List(list), Int(depth)]) => match u64::try_from(*depth) {
            Ok(depth) => flatten(list, depth, meter),
            Err(_) => Err(Cause::other("level must be non-negative")),
        },
        ("sort", [List(list)]) => {
            sort(list.iter().map(|v| (v.clone(), v.clone())).collect(), meter).map(Value::from)
        }
        ("reverse", [List(list)]) => Ok(list.iter().rev().cloned().collect::<Vec<_>>().into()),
        ("distinct", [List(list)]) => distinct(list, meter),
        ("lists.range", [Int(n)]) => meter
            .spend(u64::try_from(*n).unwrap_or_default())
            .map(|()| (0..*n).map(Int).collect::<Vec<_>>().into()),
        ("first", [List(list)]) => Ok(list.first().cloned().into()),
        ("last", [List(list)]) => Ok(list.last().cloned().into()),
        ("sets.contains", [List(a), List(b)]) => all_in(b, a, meter).map(Bool),
        ("sets.equivalent", [List(a), List(b)]) => {
            all_in(a, b, meter).and_then(|all| Ok(Bool(all && all_in(b, a, meter)?)))
        }
        ("sets.intersects", [List(a), List(b)]) => some_in(a, b, meter).map(Bool),
        _ => return None,
    })
}

fn all_in(these: &[Value], list: &[Value], meter: &mut Meter) -> Result<bool, Cause> {
    for value in these {
        if !meter.contains(list, value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn some_in(these: &[Value], list: &[Value], meter: &mut Meter) -> Result<bool, Cause> {
    for value in these {
        if meter.contains(list, value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_sorted(list: &[Value], meter: &mut Meter) -> Answer {
    for pair in list.windows(2) {
        meter.spend(pair[0].size())?;
        if pair[0].order(&pair[1])?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum(list: &[Value], meter: &mut Meter) -> Answer {
    let Some((first, rest)) = list.split_first() else { return Ok(Value::Int(0)) };
    rest.iter().try_fold(first.clone(), |sum, value| any("_+_", &[sum, value.clone()], meter))
}

/// The first element that no other is beyond.
fn extreme(list: &[Value], beyond: Ordering, meter: &mut Meter) -> Answer {
    let name = if beyond.is_lt() { "min" } else { "max" };
    let (first, rest) =
        list.split_first().ok_or_else(|| Cause::other(format!("{name} called on empty list")))?;
    let mut found = first;
    for value in rest {
        meter.spend(value.size())?;
        if value.order(found)? == beyond {
            found = value;
        }
    }
    Ok(found.clone())
}

fn position<'a>(
    mut list: impl Iterator<Item = (usize, &'a Value)>,
    wanted: &Value,
    meter: &mut Meter,
) -> Answer {
    let found = list.find_map(|(i, value)| match meter.equal(value, wanted) {
        Ok(true) => Some(Ok(i as i64)),
        Err(Cause::CostLimit) => Some(Err(Cause::CostLimit)),
        Ok(false) | Err(_) => None,
    });
    Ok(Value::Int(found.unwrap_or(Ok(-1))?))
}

fn flatten(list: &[Value], depth: u64, meter: &mut Meter) -> Answer {
    let mut flat = list.to_vec();
    for _ in 0..depth {
        let mut next = Vec::new();
        let mut nested = false;
        for value in &flat {
            match value {
                Value::List(inner) => {
                    meter.spend(inner.len() as u64 + 1)?;
                    nested = true;
                    next.extend(inner.iter().cloned());
                }
                value => {
                    meter.spend(1)?;
                    next.push(value.clone());
                }
            }
        }
        flat = next;
        if !nested {
            break;
        }
    }
    Ok(flat.into())
}

fn distinct(list: &[Value], meter: &mut Meter) -> Answer {
    let mut kept: Vec<Value> = Vec::new();
    for value in list {
        if !meter.contains(&kept, value)? {
            kept.push(value.clone());
        }
    }
    Ok(kept.into())
}

/// Values in the order of what stands before them; what is equal stays in place.
pub(in super::super) fn sort(mut pairs: Vec<(Value, Value)>, meter: &mut Meter) -> Result<Vec<Value>, Cause> {
    if let Some((first, _)) = pairs.first() {
        let kind = first.kind();
        if pairs.iter().any(|(by, _)| by.kind() != kind) {
            return Err(Cause::other("list elements must have the same type"));
        }
    }
    let mut failed = None;
    pairs.sort_by(|(a, _), (b, _)| {
        let order = if failed.is_some() {
            Ok(Ordering::Equal)
        } else {
            meter.spend(a.size()).and_then(|()| a.order(b))
        };
        order.unwrap_or_else(|cause| {
            failed = Some(cause);
            Ordering::Equal
        })
    });
    failed.map_or_else(|| Ok(pairs.into_iter().map(|(_, value)| value).collect()), Err)
}
