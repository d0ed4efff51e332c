//! The memory allocator of the binary. The libraries choose none: whoever embeds them has one already.

pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, which its bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Free pages go back to the system after so long, instead of 10 ms: under five times what it can take a server held at
/// most 169 to 222, mostly below 208, instead of 210 to 225 MiB, at the same throughput.
const PURGE_DELAY_MS: core::ffi::c_long = 3;

/// Makes the allocator keep less for later. Call it once, at the start of the process.
#[allow(unsafe_code)]
pub fn keep_less() {
    // SAFETY: options are atomics of the allocator; any time and thread will do.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: as above.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(get(), 1000, "mimalloc's default");
        keep_less();
        assert_eq!(get(), PURGE_DELAY_MS);
    }
}
