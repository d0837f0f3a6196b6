//! Who may say what: signatures of messages and of stored values (R12, R13, R138, R139).
//!
//! A [`Security`] signs for this node and says whom a signature proves. Two are here: [`Credentials`] for overlays with
//! certificates or self-made ids, and [`SharedKey`] for overlays where all trust all.
mod authority;
mod certificate;
mod credentials;
mod link;

pub use authority::CredentialServer;
pub use certificate::{
    Certificate, SigningRequest, certificate_answer, certificate_request, peer_uri, self_signed,
};
pub use credentials::{Credentials, Policy};
pub use link::{LinkCredentials, fingerprint, request_for};

use crate::signature::{ALGORITHM_NONE, Signature, SignerIdentity};
use crate::{Id, Now, ReloadError};
use anode_wire::Address;
use sha2::{Digest, Sha256};

/// What a signature is over: not everybody who may sign a record may send a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A message: its signer takes part in the overlay.
    Message,
    /// A stored value: its signer owns it.
    Data,
}

/// Whom a verified signature proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    peers: Vec<Id>,
    /// User names of its certificate.
    pub names: Vec<String>,
    /// The key as an Anode address, where identity 0x81 gave it.
    pub address: Option<Address>,
    /// The same for all that this key signs; what quotas and rates are counted by.
    pub account: u64,
}

impl Signer {
    /// A signer with these Peer-IDs.
    pub fn new(peers: Vec<Id>, names: Vec<String>, address: Option<Address>) -> Self {
        let account = match (&address, peers.first()) {
            (Some(address), _) => account(address.as_bytes()),
            (None, Some(peer)) => account(&peer.0),
            (None, None) => account(names.first().map_or(&[], |name| name.as_bytes())),
        };
        Self {
            peers,
            names,
            address,
            account,
        }
    }

    /// Whether it may speak for this Peer-ID.
    pub fn is_peer(&self, id: Id) -> bool {
        self.peers.contains(&id)
    }

    /// The same signer, as the one of its peers that has signed.
    fn as_peer(&self, place: usize) -> Self {
        Self {
            peers: self.peers.get(place).copied().into_iter().collect(),
            ..self.clone()
        }
    }

    /// All Peer-IDs it may speak for. Of a value's signer, an Anode address speaks for its sixteen peers (RD62); of a
    /// message's, for the one that has signed.
    pub fn peers(&self) -> &[Id] {
        &self.peers
    }

    /// The Peer-ID that answers for `key`: the first one at or after it. Exact for everybody who has one Peer-ID.
    pub fn peer_near(&self, key: Id) -> Option<Id> {
        self.peers
            .iter()
            .copied()
            .min_by_key(|peer| key.distance_to(*peer))
    }
}

pub(crate) fn account(bytes: &[u8]) -> u64 {
    let hash = Sha256::digest(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// Signs for this node and verifies for it. Synchronous and without IO; `verify` may keep what it has seen, within
/// bounds.
pub trait Security: Send {
    /// This node's Peer-ID.
    fn peer_id(&self) -> Id;

    /// Algorithm and value of a message signature over `input`, which ends up beside [`Security::identity`].
    fn sign(&self, input: &[u8]) -> (u8, Vec<u8>);

    /// Whom to name as the signer of messages. `full`: somebody who knows nothing of this node can check it (RD27).
    fn identity(&self, full: bool) -> SignerIdentity;

    /// Checks a signature.
    ///
    /// # Errors
    /// [`ReloadError::Unverified`] where it is wrong, or its signer unknown.
    fn verify(
        &mut self,
        signature: &Signature,
        input: &[u8],
        purpose: Purpose,
        now: Now,
    ) -> Result<Signer, ReloadError>;

    /// Remembers a certificate that came with values (R80), if it is to be believed.
    fn learn_certificate(&mut self, _der: &[u8], _now: Now) {}

    /// Another certificate for the same key and Peer-ID takes the place of this node's (R126: before the old one expires).
    ///
    /// # Errors
    /// It is for another key or Peer-ID, or this node shows none.
    fn renew(&mut self, _certificate: Certificate) -> Result<(), ReloadError> {
        Err(ReloadError::Certificate(
            "this node shows no certificate".into(),
        ))
    }

    /// Whether stored values must be signed and their owners' rights checked; not so in shared-key overlays (R139).
    fn protects_data(&self) -> bool {
        true
    }
}

/// Security of an overlay whose members all know one key: the links check it, messages only name their sender, and
/// everybody trusts everybody (R13, RD29, RD61).
pub struct SharedKey {
    peer: Id,
}

impl SharedKey {
    /// For the node with this random Peer-ID.
    pub fn new(peer: Id) -> Self {
        Self { peer }
    }
}

impl Security for SharedKey {
    fn peer_id(&self) -> Id {
        self.peer
    }

    fn sign(&self, _input: &[u8]) -> (u8, Vec<u8>) {
        (ALGORITHM_NONE, Vec::new())
    }

    fn identity(&self, _full: bool) -> SignerIdentity {
        SignerIdentity::Peer(self.peer)
    }

    fn verify(
        &mut self,
        signature: &Signature,
        _input: &[u8],
        _purpose: Purpose,
        _now: Now,
    ) -> Result<Signer, ReloadError> {
        match (&signature.identity, signature.algorithm) {
            (SignerIdentity::Peer(peer), ALGORITHM_NONE) if peer.is_valid_peer() => {
                Ok(Signer::new(vec![*peer], Vec::new(), None))
            }
            _ => Err(ReloadError::Unverified(
                "in a shared-key overlay a message names its sender and nothing more",
            )),
        }
    }

    fn protects_data(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
