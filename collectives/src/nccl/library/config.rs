//! How NCCL is asked for a communicator, and which versions are not asked.

use std::ffi::{c_char, c_int, c_uint};

use super::Version;

/// The oldest version with everything that is called here, and whose communicators can be aborted by a thread that is
/// not the one that calls: 2.18 frees them while its own thread still works on what was called (its
/// ncclCommEnsureReady).
const OLDEST: Version = Version::new(2, 19, 0);

/// The oldest version that starts its kernels in the order of its calls, if it is told to.
const ORDERED: Version = Version::new(2, 26, 0);

/// Versions that are known to be broken for us, with the reason.
const BROKEN: [(Version, &str); 1] = [(
    Version::new(2, 29, 2),
    // The maintainers' release 2.29.3, and https://github.com/pytorch/pytorch/pull/174338.
    "hangs, as its own successor 2.29.3 says",
)];

/// Why a version is refused, if it is.
pub(super) fn refusal(version: Version) -> Option<&'static str> {
    if version < OLDEST {
        return Some("is too old: 2.19 or newer is needed");
    }
    BROKEN.iter().find(|(broken, _)| *broken == version).map(|(_, why)| *why)
}

/// Whether this version, by what the variable `NCCL_LAUNCH_ORDER_IMPLICIT` says, starts its kernels of all
/// communicators of a GPU in the order of its calls.
pub(super) fn keeps_order(version: Version, variable: Option<&str>) -> bool {
    version >= ORDERED && variable.is_some_and(|value| value.trim() == "1")
}

/// What NCCL takes for "not set".
const UNSET: c_int = c_int::MIN;

const MAGIC: c_uint = 0xcafe_beef;

/// `ncclConfig_t` as it was in 2.18 and 2.19. NCCL reads as many bytes as `size` says, by the meaning that they had in
/// `version`; fields are only ever added behind, the first of them where this layout has padding.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    /// Nobody's then, a field since 2.26.
    padding: c_int,
}

impl Config {
    /// A communicator whose calls return at once: NCCL carries them out in threads of its own, and one that hangs can
    /// be aborted.
    pub(super) fn non_blocking() -> Self {
        Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: OLDEST.code(),
            blocking: 0,
            cga_cluster_size: UNSET,
            min_ctas: UNSET,
            max_ctas: UNSET,
            net_name: std::ptr::null(),
            split_share: UNSET,
            padding: UNSET,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn versions_that_will_not_do_are_refused_with_a_reason() {
        assert!(refusal(Version::new(2, 18, 6)).unwrap().contains("2.19 or newer"));
        assert!(refusal(Version::new(2, 29, 2)).unwrap().contains("hangs"));
        let good = [(2, 19, 3), (2, 27, 5), (2, 29, 3), (2, 32, 3)];
        assert!(good.into_iter().all(|(a, b, c)| refusal(Version::new(a, b, c)).is_none()));
    }

    #[test]
    fn the_layout_is_that_of_the_header() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!((offset_of!(Config, blocking), offset_of!(Config, net_name)), (16, 32));
        let config = Config::non_blocking();
        assert_eq!((config.size, config.version, config.blocking), (48, 21_900, 0));
    }

    #[test]
    fn order_is_kept_by_versions_that_know_it_and_are_told_to() {
        let (old, new) = (Version::new(2, 25, 1), Version::new(2, 26, 2));
        assert!(keeps_order(new, Some("1")));
        assert!(
            [(old, Some("1")), (new, None), (new, Some("0"))]
                .into_iter()
                .all(|(v, set)| !keeps_order(v, set))
        );
    }
}
