//! Sequence numbers. On the wire they have 32 bits, start at a random ISN and wrap (Anode 0.8 §5, D30). Inside, a packet
//! is known by its *position*: 0 is the S_OPEN, 1 the first data, 64 bits, never wrapping. The two meet only here.

/// The position of `sequence`, which is taken to be within half the range of `near` (D30); `None`: before the S_OPEN.
pub(crate) fn position(sequence: u32, isn: u32, near: u64) -> Option<u64> {
    // The cast to 32 signed bits is the half-range rule.
    let distance = sequence.wrapping_sub(on_wire(isn, near)) as i32;
    near.checked_add_signed(i64::from(distance))
}

/// The 32 bits that stand for `position` on the wire.
pub(crate) fn on_wire(isn: u32, position: u64) -> u32 {
    isn.wrapping_add(position as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_wrap() {
        // D30
        for isn in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX] {
            for near in [
                0,
                5,
                0x7fff_ffff,
                0xffff_fffe,
                0x1_0000_0003,
                u64::from(u32::MAX) * 3,
            ] {
                for step in [
                    -70_000i64,
                    -1,
                    0,
                    1,
                    70_000,
                    i64::from(i32::MAX),
                    i64::from(i32::MIN),
                ] {
                    let Some(wanted) = near.checked_add_signed(step) else {
                        continue;
                    };
                    assert_eq!(
                        position(on_wire(isn, wanted), isn, near),
                        Some(wanted),
                        "{isn} {near} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_lies_before_the_open_has_no_position() {
        assert_eq!(position(99, 100, 0), None);
        assert_eq!(position(100, 100, 0), Some(0));
    }
}
