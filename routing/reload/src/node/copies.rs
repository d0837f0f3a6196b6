//! Copies: replicas of what is stored, and ranges that move (R89, R112, R118).
use super::transact::For;
use super::{Event, Node};
use crate::topology::Input;
use crate::{Code, Header, Id, Method, Now};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// An answer waits for a replica no longer than this (R112).
const REPLICA_WAIT: Duration = Duration::from_secs(1);
/// STOREs of one job under way.
const WINDOW: usize = 8;
/// Jobs; more are passed over, and made good by the next change or refresh.
const MAX_JOBS: usize = 64;
/// Answers that wait for a replica.
const MAX_WAITING: usize = 1024;
/// Bytes of one STORE of a job.
const COPY_SIZE: usize = 16 * 1024;

/// A range that is being copied.
struct Job {
    to: Id,
    range: (Id, Id),
    resources: VecDeque<Id>,
    requests: VecDeque<Vec<u8>>,
    under_way: usize,
    hand_over: bool,
}

/// An answer that waits for a replica.
struct Waiting {
    header: Header,
    key: (u64, u64),
    payload: Vec<u8>,
    until: Duration,
    missing: usize,
}

/// A resource that has no place here any more, on its way to its owner.
struct Offload {
    left: usize,
    failed: bool,
}

/// What is being copied.
#[derive(Default)]
pub(super) struct Copies {
    offloads: BTreeMap<Id, Offload>,
    to_offload: VecDeque<Id>,
    jobs: BTreeMap<u64, Job>,
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// Jobs passed over.
    pub dropped: u64,
}

impl Copies {
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }
}

impl Node {
    /// Starts copying everything of a range to a peer.
    pub(super) fn copy_range(&mut self, now: Now, to: Id, after: Id, upto: Id, hand_over: bool) {
        let range = (after, upto);
        let same = |job: &Job| job.to == to && job.range == range && job.hand_over == hand_over;
        if self.copies.jobs.values().any(same) {
            return;
        }
        if self.copies.jobs.len() >= MAX_JOBS {
            self.copies.dropped += 1;
            return;
        }
        let id = self.copies.next;
        self.copies.next += 1;
        let job = Job {
            to,
            range,
            resources: self.storage.resources_in(after, upto).into(),
            requests: VecDeque::new(),
            under_way: 0,
            hand_over,
        };
        self.copies.jobs.insert(id, job);
        self.continue_copy(now, id);
    }

    fn continue_copy(&mut self, now: Now, id: u64) {
        loop {
            let Some(job) = self.copies.jobs.get_mut(&id) else {
                return;
            };
            if job.under_way >= WINDOW {
                return;
            }
            if let Some(payload) = job.requests.pop_front() {
                let to = job.to;
                job.under_way += 1;
                let sent = self.send_copy(now, For::Copy { job: id }, to, Method::Store, &payload);
                if !sent {
                    // the link is gone: who takes its place will be copied to
                    self.copies.jobs.remove(&id);
                    self.copied(now);
                    return;
                }
                continue;
            }
            if let Some(resource) = job.resources.pop_front() {
                let requests = self.storage.copies(resource, COPY_SIZE);
                job.requests = requests
                    .iter()
                    .filter_map(|request| request.emit().ok())
                    .collect();
                continue;
            }
            if job.under_way == 0 {
                let (to, hand_over) = (job.to, job.hand_over);
                self.copies.jobs.remove(&id);
                if hand_over {
                    self.topology.handle(now, Input::HandedOver(to));
                }
                self.copied(now);
            }
            return;
        }
    }

    /// Gives what has no place here any more to whoever owns it, one value at a time, and forgets it once it is there.
    /// Where a partition has healed, this is what brings both halves' values together (R11, R118).
    pub(super) fn offload(&mut self, now: Now) {
        let everything = self.storage.resources_in(self.id, self.id);
        let topology = &self.topology;
        let stray = everything.into_iter().filter(|key| !topology.keeps(*key));
        self.copies.to_offload = stray.collect();
        self.continue_offload(now);
    }

    fn continue_offload(&mut self, now: Now) {
        while self.copies.offloads.len() < WINDOW
            && let Some(resource) = self.copies.to_offload.pop_front()
        {
            if self.topology.keeps(resource) || self.copies.offloads.contains_key(&resource) {
                continue;
            }
            let mut requests = self.storage.copies(resource, 0);
            let mut offload = Offload {
                left: 0,
                failed: false,
            };
            for request in &mut requests {
                // the generation is the owner's to count
                request.types.iter_mut().for_each(|one| one.generation = 0);
                let options = super::RequestOptions::default();
                let sent = request.emit().and_then(|payload| {
                    self.request(
                        now,
                        For::Offload(resource),
                        Method::Store,
                        vec![resource],
                        &payload,
                        None,
                        None,
                        options,
                    )
                });
                offload.left += usize::from(sent.is_ok());
                offload.failed |= sent.is_err();
            }
            if offload.left > 0 {
                self.copies.offloads.insert(resource, offload);
            }
        }
    }

    pub(super) fn offload_answered(&mut self, now: Now, resource: Id, good: bool) {
        let Some(offload) = self.copies.offloads.get_mut(&resource) else {
            return;
        };
        offload.left -= 1;
        offload.failed |= !good;
        if offload.left > 0 {
            return;
        }
        let all_there = !offload.failed;
        self.copies.offloads.remove(&resource);
        if all_there && !self.topology.keeps(resource) {
            self.storage.drop_resources(|key| key != resource);
        }
        self.continue_offload(now);
    }

    pub(super) fn copy_answered(&mut self, now: Now, id: u64, good: bool) {
        if !good {
            self.topology.handle(now, Input::CopyFailed);
        }
        if let Some(job) = self.copies.jobs.get_mut(&id) {
            job.under_way -= 1;
            self.continue_copy(now, id);
        }
    }

    fn copied(&mut self, now: Now) {
        if self.leaving && self.copies.is_idle() {
            self.say_goodbye(now);
        }
    }

    /// LEAVE to everybody there is a link to (R90).
    pub(super) fn say_goodbye(&mut self, now: Now) {
        if !std::mem::take(&mut self.leaving) {
            return;
        }
        for peer in self.by_peer.keys().copied().collect::<Vec<_>>() {
            self.send_leave(now, peer);
        }
        self.emit(Event::Left);
    }

    /// Sends a change to the replicas. Whether the answer has to wait for one.
    #[expect(
        clippy::too_many_arguments,
        reason = "the change, and the answer that waits for it"
    )]
    pub(super) fn copy_to_replicas(
        &mut self,
        now: Now,
        replicas: &[Id],
        method: Method,
        copy: &[u8],
        header: &Header,
        key: (u64, u64),
        payload: &[u8],
    ) -> bool {
        let store = self.copies.next;
        self.copies.next += 1;
        let mut missing = 0;
        for replica in replicas {
            let purpose = For::Replica { store };
            if self.send_copy(now, purpose, *replica, method, copy) {
                missing += 1;
            }
        }
        if missing == 0 || self.copies.waiting.len() >= MAX_WAITING {
            self.counters.stored_alone += u64::from(!replicas.is_empty());
            return false;
        }
        let waiting = Waiting {
            header: header.clone(),
            key,
            payload: payload.to_vec(),
            until: now.at + REPLICA_WAIT,
            missing,
        };
        self.copies.waiting.insert(store, waiting);
        true
    }

    pub(super) fn replica_answered(&mut self, now: Now, store: u64, good: bool) {
        let Some(waiting) = self.copies.waiting.get_mut(&store) else {
            return;
        };
        waiting.missing -= 1;
        if good || waiting.missing == 0 {
            self.counters.stored_alone += u64::from(!good);
            self.answer_store(now, store);
        }
    }

    fn answer_store(&mut self, now: Now, store: u64) {
        if let Some(it) = self.copies.waiting.remove(&store) {
            self.reply(now, &it.header, it.key, Code::OK, it.payload);
        }
    }

    /// Answers what has waited long enough.
    pub(super) fn run_copies(&mut self, now: Now) {
        let late = |it: &Waiting| it.until <= now.at;
        let due: Vec<u64> = self
            .copies
            .waiting
            .iter()
            .filter(|(_, it)| late(it))
            .map(|(store, _)| *store)
            .collect();
        for store in due {
            self.counters.stored_alone += 1;
            self.answer_store(now, store);
        }
    }
}
