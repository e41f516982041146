//! Sizes on the command line: bytes, or with a suffix of Kubernetes (`Ki`, `Mi`, `Gi`, `k`, `M`, `G`).

/// Suffix -> factor. Longer ones first, so that `Mi` is not taken for `M`.
const SUFFIXES: [(&str, usize); 6] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];

/// Bytes, at least 1.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let suffixed = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = suffixed.unwrap_or((text, 1));
    let number: Option<usize> = digits.parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(factor)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("{text:?} is no size of at least 1 byte such as 512, 64Mi or 2G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_suffixes_of_kubernetes() {
        assert_eq!(["512", "64Mi", "1Gi", "2k"].map(|t| parse(t).unwrap()), [512, 64 << 20, 1 << 30, 2_000]);
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "0", "Mi", "-1", "1.5Gi", "99999999999999999999", "99999999999Gi"] {
            assert!(parse(text).unwrap_err().contains("64Mi"), "{text}");
        }
    }
}
