//! Messages larger than a packet, cut and put together again inside SEALED (Q21).
use super::counters::Drop;
use super::kind;
use std::time::{Duration, Instant};

/// Bytes of ‹type, message› that a datagram may have in all.
pub const MAX_DATAGRAM: usize = 64 * 1024;
/// Bytes that one session may hold of incomplete datagrams.
const MAX_SESSION: usize = 256 * 1024;
const LIFETIME: Duration = Duration::from_secs(5);
/// Bytes in front of the slice: id, index, count.
pub(super) const HEADER: usize = 6;
/// What a slot and a datagram cost beside their bytes, so that many small slices count for what they take.
const SLOT_COST: usize = 32;

/// The body of a FRAGMENT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fragment<'a> {
    pub id: u32,
    pub index: u8,
    pub count: u8,
    pub slice: &'a [u8],
}

impl<'a> Fragment<'a> {
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (header, slice) = body.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, index, count] = *header;
        (index < count && !slice.is_empty()).then_some(Self {
            id: u32::from_be_bytes([a, b, c, d]),
            index,
            count,
            slice,
        })
    }

    pub fn header(&self) -> [u8; HEADER] {
        let [a, b, c, d] = self.id.to_be_bytes();
        [a, b, c, d, self.index, self.count]
    }
}

/// Cuts ‹type, message› into slices of at most `slice` bytes. `None` if it is too large, or would need over 255.
pub(super) fn cut(message_kind: u8, body: &[u8], slice: usize) -> Option<Vec<Vec<u8>>> {
    let total = body.len() + 1;
    if slice == 0 || total > MAX_DATAGRAM || total.div_ceil(slice) > usize::from(u8::MAX) {
        return None;
    }
    let mut whole = Vec::with_capacity(total);
    whole.push(message_kind);
    whole.extend_from_slice(body);
    Some(whole.chunks(slice).map(<[u8]>::to_vec).collect())
}

/// Memory that several sessions share.
#[derive(Debug)]
pub(super) struct Pool {
    used: usize,
    limit: usize,
}

impl Pool {
    pub fn new(limit: usize) -> Self {
        Self { used: 0, limit }
    }

    pub fn used(&self) -> usize {
        self.used
    }
}

/// One session's incomplete datagrams.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    datagrams: Vec<Partial>,
    cost: usize,
}

#[derive(Debug)]
struct Partial {
    id: u32,
    slices: Vec<Option<Box<[u8]>>>,
    missing: u8,
    bytes: usize,
    started: Instant,
}

impl Partial {
    fn cost(&self) -> usize {
        self.bytes + self.slices.len() * SLOT_COST
    }
}

impl Reassembly {
    /// A whole ‹type, message›, or nothing yet.
    pub fn add(
        &mut self,
        now: Instant,
        fragment: Fragment<'_>,
        pool: &mut Pool,
    ) -> Result<Option<Vec<u8>>, Drop> {
        let count = usize::from(fragment.count);
        let place = match self.datagrams.iter().position(|d| d.id == fragment.id) {
            Some(place) => place,
            None => {
                self.reserve(count * SLOT_COST, pool)?;
                self.datagrams.push(Partial {
                    id: fragment.id,
                    slices: vec![None; count],
                    missing: fragment.count,
                    bytes: 0,
                    started: now,
                });
                self.datagrams.len() - 1
            }
        };

        let datagram = &mut self.datagrams[place];
        let slot = usize::from(fragment.index);
        let contradiction = datagram.slices.len() != count
            || datagram.slices[slot]
                .as_deref()
                .is_some_and(|known| known != fragment.slice)
            || datagram.bytes + fragment.slice.len() > MAX_DATAGRAM;
        if contradiction {
            self.remove(place, pool);
            return Err(Drop::Fragment);
        }
        if datagram.slices[slot].is_some() {
            return Ok(None);
        }
        if let Err(reason) = self.reserve(fragment.slice.len(), pool) {
            self.remove(place, pool);
            return Err(reason);
        }
        let datagram = &mut self.datagrams[place];
        datagram.slices[slot] = Some(fragment.slice.into());
        datagram.bytes += fragment.slice.len();
        datagram.missing -= 1;
        if datagram.missing > 0 {
            return Ok(None);
        }
        let whole = self.remove(place, pool);
        Ok(Some(whole.slices.into_iter().flatten().flatten().collect()))
    }

    /// Drops what is too old; how many datagrams that were.
    pub fn expire(&mut self, now: Instant, pool: &mut Pool) -> u64 {
        let mut expired = 0;
        while let Some(place) = self
            .datagrams
            .iter()
            .position(|d| now >= d.started + LIFETIME)
        {
            self.remove(place, pool);
            expired += 1;
        }
        expired
    }

    /// Gives back all memory.
    pub fn clear(&mut self, pool: &mut Pool) {
        while !self.datagrams.is_empty() {
            self.remove(0, pool);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.datagrams.iter().map(|d| d.started + LIFETIME).min()
    }

    fn reserve(&mut self, cost: usize, pool: &mut Pool) -> Result<(), Drop> {
        if self.cost + cost > MAX_SESSION || pool.used + cost > pool.limit {
            return Err(Drop::FragmentRoom);
        }
        self.cost += cost;
        pool.used += cost;
        Ok(())
    }

    fn remove(&mut self, place: usize, pool: &mut Pool) -> Partial {
        let datagram = self.datagrams.swap_remove(place);
        self.cost -= datagram.cost();
        pool.used -= datagram.cost();
        datagram
    }
}

/// Whether a reassembled message may be of this type: a FRAGMENT of FRAGMENTs is none.
pub(super) fn may_carry(message_kind: u8) -> bool {
    message_kind != kind::FRAGMENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragments(id: u32, slices: &[Vec<u8>]) -> Vec<Fragment<'_>> {
        let count = slices.len() as u8;
        slices
            .iter()
            .zip(0..)
            .map(|(slice, index)| Fragment {
                id,
                index,
                count,
                slice,
            })
            .collect()
    }

    // Q21
    #[test]
    fn contradictions_drop_the_whole_and_give_the_memory_back() {
        let now = Instant::now();
        let first = Fragment {
            id: 1,
            index: 0,
            count: 3,
            slice: b"abc",
        };
        for other in [
            Fragment {
                slice: b"abd",
                ..first
            },
            Fragment {
                slice: b"ab",
                ..first
            },
            Fragment {
                count: 4,
                index: 1,
                ..first
            },
        ] {
            let mut pool = Pool::new(1 << 20);
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.add(now, first, &mut pool), Ok(None));
            assert_eq!(
                reassembly.add(now, first, &mut pool),
                Ok(None),
                "a copy is none"
            );
            assert_eq!(reassembly.add(now, other, &mut pool), Err(Drop::Fragment));
            assert_eq!((pool.used(), reassembly.cost), (0, 0));
        }
    }

    // Q21
    #[test]
    fn a_session_and_all_sessions_hold_no_more_than_their_share() {
        let now = Instant::now();
        let slice = vec![7; 1000];
        let mut pool = Pool::new(300 * 1024);
        let mut one = Reassembly::default();
        for id in 0..1000 {
            let _ = one.add(
                now,
                Fragment {
                    id,
                    index: 0,
                    count: 2,
                    slice: &slice,
                },
                &mut pool,
            );
        }
        assert!(one.cost <= MAX_SESSION && one.cost > MAX_SESSION - 2000);
        let mut other = Reassembly::default();
        for id in 0..1000 {
            let _ = other.add(
                now,
                Fragment {
                    id,
                    index: 0,
                    count: 2,
                    slice: &slice,
                },
                &mut pool,
            );
        }
        assert!(pool.used() <= 300 * 1024);
        assert_eq!(
            one.expire(now + LIFETIME - Duration::from_millis(1), &mut pool),
            0
        );
        assert!(one.expire(now + LIFETIME, &mut pool) > 200);
        other.clear(&mut pool);
        assert_eq!((pool.used(), one.cost, other.cost), (0, 0, 0));
    }

    // Q21
    #[test]
    fn a_datagram_has_at_most_64_kib() {
        let now = Instant::now();
        let slice = vec![1; 1000];
        let mut pool = Pool::new(1 << 20);
        let mut reassembly = Reassembly::default();
        let results: Vec<_> = (0..66)
            .map(|index| {
                reassembly.add(
                    now,
                    Fragment {
                        id: 9,
                        index,
                        count: 255,
                        slice: &slice,
                    },
                    &mut pool,
                )
            })
            .collect();
        assert_eq!(results[64], Ok(None));
        assert_eq!(results[65], Err(Drop::Fragment));
        assert_eq!(pool.used(), 0);
        assert_eq!(cut(1, &vec![0; MAX_DATAGRAM], 1200), None);
        assert_eq!(cut(1, &[0; 255], 1), None, "256 slices");
        assert!(cut(1, &vec![0; MAX_DATAGRAM - 1], 1200).is_some());
    }

    proptest! {
        // Q21
        #[test]
        fn any_order_with_copies_puts_it_together(
            body in prop::collection::vec(any::<u8>(), 0..5000),
            slice in 20usize..1200,
            seed in any::<u64>(),
        ) {
            prop_assume!((body.len() + 1).div_ceil(slice) <= 255);
            let slices = cut(9, &body, slice).unwrap();
            let mut order = fragments(5, &slices);
            order.extend(order.clone());
            let len = order.len();
            for i in 0..len {
                order.swap(i, (seed as usize).wrapping_mul(i + 7) % len);
            }
            let mut pool = Pool::new(1 << 20);
            let mut reassembly = Reassembly::default();
            let now = Instant::now();
            let whole = order.into_iter().find_map(|f| reassembly.add(now, f, &mut pool).unwrap());
            let expected: Vec<u8> = [9].into_iter().chain(body).collect();
            prop_assert_eq!(whole, Some(expected));
        }

        #[test]
        fn bytes_round_trip_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(fragment) = Fragment::parse(&bytes) {
                let mut again = fragment.header().to_vec();
                again.extend_from_slice(fragment.slice);
                prop_assert_eq!(again, bytes);
            } else {
                prop_assert!(bytes.len() <= HEADER || bytes[4] >= bytes[5]);
            }
        }
    }
}
