//! GPU models, and descriptions such as `T4x4` or `A100-80GBx2,T4x1`.

use uuid::Uuid;

use crate::FakeGpuError;

/// One GPU model as NVIDIA ships it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Short name used in descriptions.
    pub id: &'static str,
    /// Product name as nvidia-smi prints it.
    pub product: &'static str,
    /// NVML total memory in MiB.
    pub total_mib: u64,
    /// Of which the driver keeps for itself, in MiB.
    pub reserved_mib: u64,
    /// CUDA compute capability.
    pub compute: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// NVML brand number (`nvmlBrandType_t`).
    pub brand: u32,
    /// NVML architecture number (`nvmlDeviceArchitecture_t`).
    pub architecture: u32,
}

/// Brand numbers of NVML.
const TESLA: u32 = 2;
const NVIDIA: u32 = 14;

/// Every model.
pub const PROFILES: [Profile; 9] = [
    Profile {
        id: "T4",
        product: "Tesla T4",
        total_mib: 15_360,
        reserved_mib: 256,
        compute: (7, 5),
        multiprocessors: 40,
        brand: TESLA,
        architecture: 6,
    },
    Profile {
        id: "V100-16GB",
        product: "Tesla V100-SXM2-16GB",
        total_mib: 16_384,
        reserved_mib: 224,
        compute: (7, 0),
        multiprocessors: 80,
        brand: TESLA,
        architecture: 5,
    },
    Profile {
        id: "V100-32GB",
        product: "Tesla V100-SXM2-32GB",
        total_mib: 32_768,
        reserved_mib: 274,
        compute: (7, 0),
        multiprocessors: 80,
        brand: TESLA,
        architecture: 5,
    },
    Profile {
        id: "A10G",
        product: "NVIDIA A10G",
        total_mib: 23_028,
        reserved_mib: 296,
        compute: (8, 6),
        multiprocessors: 80,
        brand: NVIDIA,
        architecture: 7,
    },
    Profile {
        id: "A100-40GB",
        product: "NVIDIA A100-SXM4-40GB",
        total_mib: 40_960,
        reserved_mib: 425,
        compute: (8, 0),
        multiprocessors: 108,
        brand: NVIDIA,
        architecture: 7,
    },
    Profile {
        id: "A100-80GB",
        product: "NVIDIA A100-SXM4-80GB",
        total_mib: 81_920,
        reserved_mib: 688,
        compute: (8, 0),
        multiprocessors: 108,
        brand: NVIDIA,
        architecture: 7,
    },
    Profile {
        id: "H100-80GB",
        product: "NVIDIA H100 80GB HBM3",
        total_mib: 81_559,
        reserved_mib: 550,
        compute: (9, 0),
        multiprocessors: 132,
        brand: NVIDIA,
        architecture: 9,
    },
    Profile {
        id: "H200",
        product: "NVIDIA H200",
        total_mib: 143_771,
        reserved_mib: 595,
        compute: (9, 0),
        multiprocessors: 132,
        brand: NVIDIA,
        architecture: 9,
    },
    Profile {
        id: "L4",
        product: "NVIDIA L4",
        total_mib: 23_034,
        reserved_mib: 556,
        compute: (8, 9),
        multiprocessors: 58,
        brand: NVIDIA,
        architecture: 8,
    },
];

/// One GPU to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its model.
    pub profile: Profile,
    /// NVML UUID, always the same for the same node and index.
    pub uuid: String,
    /// PCI bus number; GPUs 0 and 1 hang on one root, 2 and 3 on the next, and so on.
    pub bus: u32,
    /// NUMA node: the first half of the GPUs on 0, the others on 1.
    pub numa: u32,
}

/// Reads a description and names the GPUs after their node.
///
/// # Errors
/// [`FakeGpuError::Description`] with the part that is wrong and the models there are.
pub fn parse(text: &str, node: &str) -> Result<Vec<Spec>, FakeGpuError> {
    let wrong = |why: String| FakeGpuError::Description { text: text.to_owned(), why };
    let mut profiles = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (id, count) = part.rsplit_once('x').unwrap_or((part, "1"));
        let count: usize =
            count.parse().map_err(|_| wrong(format!("{part:?} does not end in x and a number")))?;
        let known = PROFILES.iter().find(|p| p.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
            wrong(format!("{id:?} is no model; there are {}", PROFILES.map(|p| p.id).join(", ")))
        })?;
        profiles.extend(std::iter::repeat_n(*known, count));
    }
    if profiles.is_empty() || profiles.len() > crate::layout::MAX_GPUS {
        return Err(wrong(format!("a node has 1 to {} GPUs", crate::layout::MAX_GPUS)));
    }
    let half = profiles.len().div_ceil(2);
    let spec = |(index, profile): (usize, Profile)| Spec {
        profile,
        uuid: format!("GPU-{}", Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{node}/{index}").as_bytes())),
        bus: 0x10 + 0x10 * (index as u32 / 2) + index as u32 % 2,
        numa: u32::from(index >= half),
    };
    Ok(profiles.into_iter().enumerate().map(spec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_names_models_and_counts() {
        let gpus = parse("T4x2,A100-80GB", "node-a").unwrap();
        assert_eq!(gpus.iter().map(|g| g.profile.id).collect::<Vec<_>>(), ["T4", "T4", "A100-80GB"]);
    }

    #[test]
    fn uuids_follow_from_node_and_index() {
        let (a, again, b) =
            (parse("T4x2", "a").unwrap(), parse("T4x2", "a").unwrap(), parse("T4x2", "b").unwrap());
        assert_eq!(a, again);
        assert!(a[0].uuid != a[1].uuid && a[0].uuid != b[0].uuid);
    }

    #[test]
    fn an_unknown_model_is_refused_with_the_known_ones() {
        let error = parse("T5x2", "a").unwrap_err().to_string();
        assert!(error.contains("\"T5\" is no model; there are T4,"), "{error}");
    }
}
