//! Certificates, self-made ids and their keys: P-256 throughout (RD22, RD23, RD62).
use super::certificate::Certificate;
use super::{Purpose, Security, Signer};
use crate::signature::{ALGORITHM_ECDSA_P256, Signature, SignerIdentity};
use crate::{Id, Now, ReloadError};
use anode_wire::{Address, Identity, PeerId, Zone};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{SigningKey, VerifyingKey};
use std::collections::{BTreeMap, VecDeque};
use zeroize::Zeroizing;

/// Certificates kept by Peer-ID and user name, so that messages need not carry them.
const MAX_KNOWN: usize = 1024;
/// Verified Anode addresses kept with their sixteen Peer-IDs (about 0.2 ms to compute).
const MAX_ADDRESSES: usize = 1024;

/// Whom an overlay with signatures believes.
#[derive(Clone, Default)]
pub struct Policy {
    /// The overlay's name: certificates hold it.
    pub overlay: String,
    /// Certificates that sign peers' certificates (R126).
    pub roots: Vec<Certificate>,
    /// Whether ids may be self-made: Anode addresses and self-signed certificates (RD62).
    pub self_signed: bool,
    /// The zone whose Anode addresses count.
    pub zone: Zone,
}

impl Policy {
    /// Whether a certificate is good at this time, in Unix seconds.
    ///
    /// # Errors
    /// [`ReloadError::Unverified`] says what is wrong with it.
    pub fn accept(&self, certificate: &Certificate, unix: u64) -> Result<(), ReloadError> {
        certificate.check_time(unix)?;
        certificate.check_overlay(&self.overlay)?;
        let mut roots = self.roots.iter();
        let issued =
            roots.any(|root| root.check_time(unix).is_ok() && certificate.is_issued_by(root));
        if issued || (self.self_signed && certificate.is_self_made()) {
            return Ok(());
        }
        Err(ReloadError::Unverified(
            "the certificate is neither signed by a root of the overlay nor self-made where that is permitted",
        ))
    }
}

/// A table that forgets its oldest entry.
struct Recent<K, V> {
    entries: BTreeMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            limit,
        }
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

/// The key of this node, and what it knows of others'.
pub struct Credentials {
    key: SigningKey,
    peer: Id,
    address: Address,
    digit: PeerId,
    certificate: Option<Certificate>,
    policy: Policy,
    by_peer: Recent<Id, Certificate>,
    by_name: Recent<String, Certificate>,
    addresses: Recent<Address, Signer>,
}

impl Credentials {
    /// A node with a self-made id: the key of its Anode address, and its peer digit (RD62).
    pub fn self_made(
        scalar: &[u8; 32],
        digit: PeerId,
        policy: Policy,
    ) -> Result<Self, ReloadError> {
        let key = signing_key(scalar)?;
        let address = Identity::from_scalar(policy.zone, scalar)
            .map(|identity| *identity.address())
            .map_err(|_| ReloadError::Certificate("the key is out of range".into()))?;
        let peer = Id::of_address(&address, digit);
        Ok(Self {
            key,
            peer,
            address,
            digit,
            certificate: None,
            policy,
            by_peer: Recent::new(MAX_KNOWN),
            by_name: Recent::new(MAX_KNOWN),
            addresses: Recent::new(MAX_ADDRESSES),
        })
    }

    /// From the identity of the node.
    pub fn from_identity(
        identity: &Identity,
        digit: PeerId,
        policy: Policy,
    ) -> Result<Self, ReloadError> {
        let policy = Policy {
            zone: identity.address().zone(),
            ..policy
        };
        let scalar = scalar_of(identity)?;
        Self::self_made(&scalar, digit, policy)
    }

    /// A node with a certificate of the overlay's credential server; its first Peer-ID is the node's (R126).
    pub fn certified(
        scalar: &[u8; 32],
        certificate: Certificate,
        policy: Policy,
    ) -> Result<Self, ReloadError> {
        let made = Self::self_made(scalar, PeerId::ANY, policy)?;
        if certificate.key() != made.key.verifying_key() {
            return Err(ReloadError::Certificate(
                "the certificate is for another key".into(),
            ));
        }
        let peer = *certificate
            .peers()
            .first()
            .ok_or_else(|| ReloadError::Certificate("the certificate holds no Peer-ID".into()))?;
        Ok(Self {
            peer,
            certificate: Some(certificate),
            ..made
        })
    }

    /// The same with the key of an identity.
    ///
    /// # Errors
    /// The certificate is for another key, or holds no Peer-ID.
    pub fn of_certificate(
        identity: &Identity,
        certificate: Certificate,
        policy: Policy,
    ) -> Result<Self, ReloadError> {
        let zone = identity.address().zone();
        let scalar = scalar_of(identity)?;
        Self::certified(&scalar, certificate, Policy { zone, ..policy })
    }

    /// The Anode address of the key.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Signs a value with identity 0x81: the form in which records of Anode addresses are stored.
    pub fn sign_as_address(&self, input: &[u8]) -> Signature {
        let (algorithm, value) = self.sign(input);
        Signature {
            algorithm,
            value,
            identity: SignerIdentity::Anode(self.address),
        }
    }

    /// Remembers the certificate of a link, or one that was fetched (R80). Refused where the policy does not accept it.
    pub fn learn(&mut self, certificate: &Certificate, now: Now) -> Result<(), ReloadError> {
        self.policy.accept(certificate, now.unix)?;
        for peer in certificate.peers() {
            self.by_peer.insert(*peer, certificate.clone());
        }
        for name in certificate.names() {
            self.by_name.insert(name.clone(), certificate.clone());
        }
        Ok(())
    }

    fn signer_of_address(
        &mut self,
        address: &Address,
        purpose: Purpose,
    ) -> Result<Signer, ReloadError> {
        if purpose == Purpose::Message && !self.policy.self_signed {
            return Err(ReloadError::Unverified(
                "this overlay asks for a certificate of its credential server",
            ));
        }
        if address.zone() != self.policy.zone {
            return Err(ReloadError::Unverified("the address is of another zone"));
        }
        if let Some(known) = self.addresses.entries.get(address) {
            return Ok(known.clone());
        }
        let spki = crate::id::spki(address);
        let peers = match self.policy.self_signed {
            true => (0..16)
                .map(|digit| Id::of_public_key(&spki, digit))
                .collect(),
            false => Vec::new(),
        };
        Ok(Signer::new(peers, Vec::new(), Some(*address)))
    }
}

fn signing_key(scalar: &[u8; 32]) -> Result<SigningKey, ReloadError> {
    SigningKey::from_slice(scalar)
        .map_err(|_| ReloadError::Certificate("the key is out of range".into()))
}

/// The scalar of an identity: the last 64 digits of its text form.
pub(super) fn scalar_of(identity: &Identity) -> Result<Zeroizing<[u8; 32]>, ReloadError> {
    let text = identity.identity_string();
    let wrong = || ReloadError::Certificate("the identity has no key".into());
    let digits = text
        .len()
        .checked_sub(64)
        .and_then(|at| text.get(at..))
        .ok_or_else(wrong)?;
    let mut scalar = Zeroizing::new([0; 32]);
    for (i, digit) in digits.chars().enumerate() {
        let nibble = digit.to_digit(16).ok_or_else(wrong)? as u8;
        scalar[i / 2] = scalar[i / 2] << 4 | nibble;
    }
    Ok(scalar)
}

fn verify_ecdsa(key: &VerifyingKey, value: &[u8], input: &[u8]) -> Result<(), ReloadError> {
    let signature = p256::ecdsa::Signature::from_slice(value)
        .map_err(|_| ReloadError::Unverified("it is not 64 bytes of r and s"))?;
    key.verify(input, &signature)
        .map_err(|_| ReloadError::Unverified("it does not fit what it covers"))
}

impl Security for Credentials {
    fn learn_certificate(&mut self, der: &[u8], now: Now) {
        // One that is not to be believed is as good as none.
        let _ = Certificate::from_der(der).and_then(|certificate| self.learn(&certificate, now));
    }

    fn renew(&mut self, certificate: Certificate) -> Result<(), ReloadError> {
        let wrong = |why: &str| Err(ReloadError::Certificate(why.into()));
        if self.certificate.is_none() {
            return wrong("this node shows no certificate");
        }
        if certificate.key() != self.key.verifying_key() {
            return wrong("the certificate is for another key");
        }
        if certificate.peers().first() != Some(&self.peer) {
            return wrong("the certificate is for another Peer-ID");
        }
        self.certificate = Some(certificate);
        Ok(())
    }

    fn peer_id(&self) -> Id {
        self.peer
    }

    fn sign(&self, input: &[u8]) -> (u8, Vec<u8>) {
        // deterministic (RFC 6979): no randomness to get wrong
        let signature: p256::ecdsa::Signature = self.key.sign(input);
        (ALGORITHM_ECDSA_P256, signature.to_bytes().to_vec())
    }

    fn identity(&self, full: bool) -> SignerIdentity {
        match (&self.certificate, full) {
            (Some(certificate), true) => SignerIdentity::Certificate(certificate.der().to_vec()),
            (Some(_), false) => SignerIdentity::Peer(self.peer),
            (None, _) => SignerIdentity::of_peer(self.address, self.digit),
        }
    }

    fn verify(
        &mut self,
        signature: &Signature,
        input: &[u8],
        purpose: Purpose,
        now: Now,
    ) -> Result<Signer, ReloadError> {
        if signature.algorithm != ALGORITHM_ECDSA_P256 {
            return Err(ReloadError::Unverified(
                "its algorithm is not ECDSA P-256 with SHA-256",
            ));
        }
        let unknown = || ReloadError::Unverified("its certificate is not known");
        let certificate = match &signature.identity {
            SignerIdentity::Anode(address) | SignerIdentity::AnodePeer(address, _) => {
                let signer = self.signer_of_address(address, purpose)?;
                let key = VerifyingKey::from_sec1_bytes(address.public_key_bytes())
                    .map_err(|_| ReloadError::Unverified("its key is not valid"))?;
                verify_ecdsa(&key, &signature.value, input)?;
                self.addresses.insert(*address, signer.clone());
                let digit = signature
                    .identity
                    .anode_peer()
                    .map_or(PeerId::ANY, |it| it.1);
                return Ok(match purpose {
                    Purpose::Message => signer.as_peer(digit.get().into()),
                    // whatever one machine of the address may store, all of them may
                    Purpose::Data => signer,
                });
            }
            SignerIdentity::Peer(peer) => {
                let known = self.by_peer.entries.get(peer);
                known.ok_or_else(unknown)?.clone()
            }
            SignerIdentity::Name(name) => {
                let known = self.by_name.entries.get(name);
                known.ok_or_else(unknown)?.clone()
            }
            SignerIdentity::Certificate(der) => Certificate::from_der(der)?,
        };
        self.policy.accept(&certificate, now.unix)?;
        verify_ecdsa(certificate.key(), &signature.value, input)?;
        self.learn(&certificate, now)?;
        let peers = match &signature.identity {
            SignerIdentity::Peer(peer) => vec![*peer],
            _ => certificate.peers().to_vec(),
        };
        Ok(Signer::new(peers, certificate.names().to_vec(), None))
    }
}
