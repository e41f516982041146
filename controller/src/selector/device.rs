//! What an expression sees of a device.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::functions::Amount;
use super::value::{Cause, Map, Value};
use crate::slice::{Attribute, Device};

/// A device as the variable `device`.
#[derive(Debug, Clone)]
pub struct DeviceView {
    pub(super) name: String,
    /// The value, or the attribute that has none.
    pub(super) value: Result<Value, Cause>,
}

impl DeviceView {
    /// Of a device of a driver. Names without a domain belong to the driver's.
    pub fn new(driver: &str, device: &Device) -> Self {
        Self { name: device.name.clone(), value: value(driver, device) }
    }
}

fn value(driver: &str, device: &Device) -> Result<Value, Cause> {
    let mut attributes = Domains::new(driver);
    for (name, attribute) in device.attributes.iter().flatten() {
        let value =
            attribute_value(attribute).map_err(|cause| Cause::other(format!("attribute {name}: {cause}")))?;
        attributes.insert(name, value);
    }
    let mut capacity = Domains::new(driver);
    for (name, amount) in device.capacity.iter().flat_map(|c| c.iter()) {
        let amount = Amount::parse(&amount.value.0);
        let amount = amount.map_err(|cause| Cause::other(format!("capacity {name}: {cause}")))?;
        capacity.insert(name, Value::Quantity(amount));
    }
    let shared = device.allow_multiple_allocations == Some(true);
    Ok(map([
        ("driver", driver.into()),
        ("attributes", attributes.into_value()),
        ("capacity", capacity.into_value()),
        ("allowMultipleAllocations", Value::Bool(shared)),
    ]))
}

fn attribute_value(attribute: &Attribute) -> Result<Value, Cause> {
    match attribute {
        Attribute::Int(int) => Ok(Value::Int(*int)),
        Attribute::Bool(bool) => Ok(Value::Bool(*bool)),
        Attribute::String(string) => Ok(string.as_str().into()),
        Attribute::Version(version) => semver::Version::parse(version)
            .map(|v| Value::Version(Arc::new(v)))
            .map_err(|e| Cause::other(format!("parse semantic version: {e}"))),
        Attribute::Other(_) => Err(Cause::other("unsupported attribute value")),
    }
}

/// Values by domain and name. Every domain is there; those the device does not have are empty.
struct Domains<'a> {
    driver: &'a str,
    domains: BTreeMap<&'a str, Map>,
}

impl<'a> Domains<'a> {
    fn new(driver: &'a str) -> Self {
        Self { driver, domains: BTreeMap::new() }
    }

    fn insert(&mut self, name: &'a str, value: Value) {
        let (domain, name) = name.split_once('/').unwrap_or((self.driver, name));
        self.domains.entry(domain).or_default().insert(name.into(), value);
    }

    fn into_value(self) -> Value {
        let mut all = Map::default();
        for (domain, values) in self.domains {
            all.insert(domain.into(), values.into());
        }
        all.with_default(Map::default().into()).into()
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let mut map = Map::default();
    for (name, value) in entries {
        map.insert(name.into(), value);
    }
    map.into()
}
