//! How NCCL is asked for a communicator, and which versions are not asked.

use std::ffi::{c_char, c_int, c_uint};

use super::Version;

/// The oldest version with everything that is called here, and with communicators that do not block as they should.
const OLDEST: Version = Version::new(2, 18, 0);

/// Versions that are known to be broken for us, with the reason.
const BROKEN: [(Version, &str); 1] = [(
    Version::new(2, 29, 2),
    // The maintainers' release 2.29.3, and https://github.com/pytorch/pytorch/pull/174338.
    "hangs, as its own successor 2.29.3 says",
)];

/// Why a version is refused, if it is.
pub(super) fn refusal(version: Version) -> Option<&'static str> {
    if version < OLDEST {
        return Some("is too old: 2.18 or newer is needed");
    }
    BROKEN.iter().find(|(broken, _)| *broken == version).map(|(_, why)| *why)
}

/// What NCCL takes for "not set".
const UNSET: c_int = c_int::MIN;

const MAGIC: c_uint = 0xcafe_beef;

/// `ncclConfig_t` as it was in 2.18. NCCL reads as many bytes as `size` says, by the meaning that they had in
/// `version`; fields are only ever added behind.
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn versions_that_will_not_do_are_refused_with_a_reason() {
        assert!(refusal(Version::new(2, 17, 1)).unwrap().contains("2.18 or newer"));
        assert!(refusal(Version::new(2, 29, 2)).unwrap().contains("hangs"));
        let good = [(2, 18, 0), (2, 27, 5), (2, 29, 3), (2, 32, 3)];
        assert!(good.into_iter().all(|(a, b, c)| refusal(Version::new(a, b, c)).is_none()));
    }

    #[test]
    fn the_layout_is_that_of_the_header() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!((offset_of!(Config, blocking), offset_of!(Config, net_name)), (16, 32));
        let config = Config::non_blocking();
        assert_eq!((config.size, config.version, config.blocking), (48, 21_800, 0));
    }
}
