//! Publishes ResourceSlices and allocates ResourceClaims by policy.
