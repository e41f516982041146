//! What a request asks for of a GPU.

use std::collections::BTreeMap;

use vgpu_allocator::MemoryAsk;
use vgpu_api::names::{CORES, MEMORY, MEMORY_PERCENT, SHARES};
use vgpu_api::{MIB, Quantity};

use super::{Invalid, invalid};

/// Memory and cores. Amounts are rounded up to the capacity's step, as Kubernetes' own allocator does.
pub(super) fn read(field: &str, amounts: &BTreeMap<&str, &str>) -> Result<(MemoryAsk, u32), Invalid> {
    let quantity = |name: &str| -> Result<Option<Quantity>, Invalid> {
        let Some(text) = amounts.get(name) else { return Ok(None) };
        match text.parse::<Quantity>() {
            Ok(quantity) => Ok(Some(quantity)),
            Err(error) => invalid("InvalidAmount", format!("{field}.{name}: {error}")),
        }
    };
    let percent = |name: &'static str| -> Result<Option<u32>, Invalid> {
        let Some(quantity) = quantity(name)? else { return Ok(None) };
        match u32::try_from(quantity.value()).ok().filter(|p| *p <= 100) {
            Some(percent) => Ok(Some(percent)),
            None => {
                let note = format!("{field}.{name}: {quantity} is not a percentage; write 0 to 100");
                invalid("InvalidAmount", note)
            }
        }
    };
    let known = [MEMORY, MEMORY_PERCENT, CORES, SHARES];
    if let Some(name) = amounts.keys().find(|name| !known.contains(name)) {
        let note = format!("{field}: GPUs have no capacity {name:?}; there are {}", known.join(", "));
        return invalid("InvalidAmount", note);
    }
    if quantity(SHARES)?.is_some_and(|q| q.value() != 1) {
        return invalid(
            "InvalidAmount",
            format!("{field}.{SHARES}: a request takes 1 share; use count for several GPUs"),
        );
    }
    let memory = match (quantity(MEMORY)?, percent(MEMORY_PERCENT)?.filter(|p| *p > 0)) {
        (Some(bytes), Some(percent)) => {
            let note = format!(
                "{field}: memory ({bytes}) and memoryPercent ({percent}) exclude each other; keep one"
            );
            return invalid("InvalidAmount", note);
        }
        (None, Some(percent)) => MemoryAsk::Percent(percent),
        (None, None) => MemoryAsk::All,
        (Some(bytes), None) => {
            let bytes = u64::try_from(bytes.value()).unwrap_or(0);
            MemoryAsk::Bytes(bytes.div_ceil(MIB).max(1).saturating_mul(MIB))
        }
    };
    Ok((memory, percent(CORES)?.unwrap_or(0)))
}
