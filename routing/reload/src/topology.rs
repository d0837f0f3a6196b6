//! The plug-in that knows the shape of an overlay (R3). Chord is one; another DHT is one more implementation.
//!
//! The [`Node`](crate::Node) owns links, transactions and storage; the topology owns what it knows of other peers. It is
//! told what happens by [`Topology::handle`], says what it wants by [`Topology::poll_action`], and is asked where
//! messages go.
use crate::body::Membership;
use crate::{Id, Now};
use std::time::Duration;

/// What happens to a topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// Start: alone, as the first peer (RD54).
    Create,
    /// Start: join through this peer, to which there is a link. For a client: one more peer that it may ask.
    Join(Id),
    /// A link to a peer is there.
    Connected(Id),
    /// The last link to a peer is gone.
    Lost(Id),
    /// There is no way to connect to this peer.
    Unreachable(Id),
    /// The answer to [`Action::Ping`]: who is responsible, or nobody answered.
    Pinged {
        /// What was asked for.
        key: Id,
        /// Who answered.
        peer: Option<Id>,
    },
    /// The answer to [`Action::Join`].
    JoinAnswered {
        /// Who answered.
        peer: Id,
        /// Whether it admits this node.
        admitted: bool,
    },
    /// An UPDATE from a peer, over a direct link (RD49).
    Update {
        /// Who sent it.
        from: Id,
        /// Its body.
        body: &'a [u8],
    },
    /// An UPDATE was not answered.
    UpdateFailed(Id),
    /// Data has been handed over to a peer that joins.
    HandedOver(Id),
    /// A copy of [`Action::Replicate`] or [`Action::HandOver`] has not arrived.
    CopyFailed,
    /// A peer leaves.
    Left(&'a Membership),
    /// This node leaves.
    Leave,
    /// Look for a partition: `key` is this node's id + 1, asked through somebody outside of the routing table; `peer` is
    /// who answered (RD55).
    ProbedOutside {
        /// Who answered.
        peer: Id,
        /// Who was asked.
        through: Id,
    },
}

/// What a topology wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// PING whoever is responsible for a key; the answer is [`Input::Pinged`].
    Ping(Id),
    /// Make a link to a peer, by way of the one who told of it; the answer is [`Input::Connected`] or
    /// [`Input::Unreachable`].
    Connect(Id, Option<Id>),
    /// Close a link: the peer has no part in the tables any more.
    Disconnect(Id),
    /// Send a JOIN to a peer, over the link to it.
    Join(Id),
    /// Send an UPDATE to a peer, over the link to it.
    Update(Id, Vec<u8>),
    /// Hand over everything in `(after, upto]` to a peer that joins; the answer is [`Input::HandedOver`].
    HandOver {
        /// To whom.
        to: Id,
        /// Before the first key.
        after: Id,
        /// The last key.
        upto: Id,
    },
    /// Send copies of everything in `(after, upto]` to a peer.
    Replicate {
        /// To whom.
        to: Id,
        /// Before the first key.
        after: Id,
        /// The last key.
        upto: Id,
    },
    /// Storage may forget what [`Topology::keeps`] no longer claims, once its owners have it.
    Prune,
    /// This node is part of the ring.
    Joined,
    /// Joining failed, or the ring was lost: somebody has to give a bootstrap peer.
    Alone,
}

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Here: this node is responsible.
    Here,
    /// To this peer.
    To(Id),
    /// Nowhere.
    None,
}

/// Shape of an overlay, as one node sees it. Sans-IO, as everything here.
pub trait Topology: Send {
    /// Name in the configuration document.
    fn name(&self) -> &'static str;

    /// Takes an input.
    fn handle(&mut self, now: Now, input: Input<'_>);

    /// When [`Topology::handle_timeout`] must be called.
    fn deadline(&self) -> Option<Duration>;

    /// Runs timers.
    fn handle_timeout(&mut self, now: Now);

    /// What it wants done. Call until it says `None`.
    fn poll_action(&mut self) -> Option<Action>;

    /// Where a message for `key` goes, avoiding those that were tried (R30).
    fn next_hop(&self, key: Id, avoid: &[Id]) -> Hop;

    /// Whether this node is responsible for `key` (R28).
    fn is_responsible(&self, key: Id) -> bool {
        self.next_hop(key, &[]) == Hop::Here
    }

    /// What this node is responsible for: `(after, upto]`; `None` while it is no part of the ring.
    fn range(&self) -> Option<(Id, Id)>;

    /// Peers that hold copies of what this node is responsible for (R112).
    fn replicas(&self) -> Vec<Id>;

    /// Whether `peer` may send copies of `key` (RD72).
    fn may_copy(&self, peer: Id, key: Id) -> bool;

    /// Whether copies of `key` belong here (R118).
    fn keeps(&self, key: Id) -> bool;

    /// Whether a peer that wants to join belongs here (R88): `Ok` lets it in, an error is a response code.
    fn admit(&mut self, now: Now, joiner: Id) -> Result<(), crate::ReloadError>;

    /// Predecessors and successors, nearest first; for people.
    fn neighbours(&self) -> (Vec<Id>, Vec<Id>);

    /// Far peers; for people.
    fn fingers(&self) -> Vec<Id>;

    /// Whether this node is part of the ring.
    fn is_joined(&self) -> bool;
}
