//! Nodes that lie, values that each have an owner, and whom readers believe.
use super::{OVERLAY, Sim};
use anode_reload::body::{
    Fetch, FetchResponse, FetchType, Reference, References, StoreRequest, StoreType,
};
use anode_reload::contents::{Contents, Kind as What, emit_contents};
use anode_reload::node::{AnswerBody, RequestId, RequestOptions};
use anode_reload::security::{Purpose, Signer};
use anode_reload::signature::{ALGORITHM_ECDSA_P256, message_input};
use anode_reload::usage::Kind;
use anode_reload::{
    Code, DataModel, DataValue, Header, Id, Now, ReloadError, Security, Signature, SignerIdentity,
    StoredData, TypeId, overlay_hash,
};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// What a node does to a message that it sends or passes on. `None`: it is not sent.
pub type Lie = fn(Id, Vec<u8>) -> Option<Vec<u8>>;

/// Signatures that cost next to nothing, so that a thousand nodes can check all of them. Whoever wanted to could make one for
/// somebody else; the liars here do not, as they could not with a real one.
pub struct Marked {
    id: Id,
    checks: bool,
}

impl Marked {
    /// As everybody has it.
    pub fn new(id: Id) -> Self {
        Self { id, checks: true }
    }

    /// Of one who believes everything: what the others are spared.
    pub fn credulous(id: Id) -> Self {
        Self { id, checks: false }
    }
}

fn mark(peer: Id, input: &[u8]) -> Vec<u8> {
    let hash = Sha256::new().chain_update(peer.0).chain_update(input);
    hash.finalize().to_vec()
}

impl Security for Marked {
    fn peer_id(&self) -> Id {
        self.id
    }

    fn sign(&self, input: &[u8]) -> (u8, Vec<u8>) {
        (ALGORITHM_ECDSA_P256, mark(self.id, input))
    }

    fn identity(&self, _full: bool) -> SignerIdentity {
        SignerIdentity::Peer(self.id)
    }

    fn verify(
        &mut self,
        signature: &Signature,
        input: &[u8],
        _purpose: Purpose,
        _now: Now,
    ) -> Result<Signer, ReloadError> {
        match &signature.identity {
            SignerIdentity::Peer(peer) if !self.checks || signature.value == mark(*peer, input) => {
                Ok(Signer::new(vec![*peer], Vec::new(), None))
            }
            _ => Err(ReloadError::Unverified("the mark is not the signer's")),
        }
    }
}

/// A number that its owner gives, at two places that follow from who he is, as ANODE-RECORD has it (R142).
pub const RECORD: TypeId = TypeId(0xF1_0001);
const LIFETIME: u32 = 3600;

/// Where an owner's record is.
pub fn places(owner: Id) -> [Id; 2] {
    [0, 1].map(|copy| Id::of_seed(&[&owner.0[..], &[copy]].concat()))
}

/// The kind of these records.
pub fn record() -> Kind {
    Kind {
        id: RECORD,
        name: "RECORD".into(),
        model: DataModel::Single,
        max_value: 8,
        max_values: 1,
        max_lifetime: LIFETIME,
        findable: false,
        permission: Arc::new(|claim| {
            let mut owners = claim.signer.peers().iter();
            match owners.any(|owner| places(*owner).contains(&claim.resource)) {
                true => Ok(()),
                false => Err(ReloadError::Forbidden("it is somebody else's place")),
            }
        }),
    }
}

fn said(owner: Id, resource: Id, number: u32, at: u32) -> StoredData {
    let mut data = StoredData {
        storage_time: at,
        lifetime: LIFETIME,
        value: DataValue::Single(number.to_be_bytes().to_vec()),
        signature: None,
    };
    let identity = SignerIdentity::Peer(owner);
    let input = data.signature_input(resource, RECORD, &identity);
    data.signature = Some(Signature {
        algorithm: ALGORITHM_ECDSA_P256,
        value: mark(owner, &input.expect("a short value")),
        identity,
    });
    data
}

/// The header and the contents of a message that is no fragment.
fn read(bytes: &[u8]) -> Option<(Header, Contents<'_>)> {
    let (header, contents) = Header::parse(bytes).ok()?;
    Some((header, Contents::parse(contents).ok()?))
}

fn is_by(own: Id, contents: &Contents<'_>) -> bool {
    let signer = contents.signature.as_ref().map(|it| &it.identity);
    signer == Some(&SignerIdentity::Peer(own))
}

/// A router that lives, answers, and passes nothing on.
pub fn swallow(own: Id, bytes: Vec<u8>) -> Option<Vec<u8>> {
    let mine = read(&bytes).is_some_and(|(_, contents)| is_by(own, &contents));
    mine.then_some(bytes)
}

/// A router that changes what it passes on.
pub fn garble(own: Id, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let Some((header, contents)) = read(&bytes) else {
        return Some(bytes);
    };
    if !is_by(own, &contents) && !contents.payload.is_empty() {
        let last = header.wire_len() + 8 + contents.payload.len() - 1;
        bytes[last] ^= 0x40;
    }
    Some(bytes)
}

/// A storer that answers in its own name, with other values than it has.
fn answers_instead(
    own: Id,
    bytes: Vec<u8>,
    change: impl Fn(&mut Vec<StoredData>),
) -> Option<Vec<u8>> {
    let Some((header, contents)) = read(&bytes) else {
        return Some(bytes);
    };
    let model = |kind| (kind == RECORD).then_some(DataModel::Single);
    let list = FetchResponse::parse_list(contents.payload, model);
    let (true, What::Response(Code::OK), Ok(mut list)) =
        (is_by(own, &contents), contents.kind, list)
    else {
        return Some(bytes);
    };
    for one in &mut list {
        change(&mut one.values);
    }
    let payload = FetchResponse::emit_list(&list).ok()?;
    let contents = emit_contents(What::Response(Code::OK), &payload);
    let identity = SignerIdentity::Peer(own);
    let input = message_input(
        overlay_hash(OVERLAY),
        header.transaction,
        &identity,
        &contents,
    );
    let signature = Signature {
        algorithm: ALGORITHM_ECDSA_P256,
        value: mark(own, &input.ok()?),
        identity,
    };
    header.emit(&signature.append(contents).ok()?).ok()
}

/// A storer that says that nothing is there.
pub fn deny(own: Id, bytes: Vec<u8>) -> Option<Vec<u8>> {
    answers_instead(own, bytes, Vec::clear)
}

/// A storer that says something else, in the owner's name.
pub fn forge(own: Id, bytes: Vec<u8>) -> Option<Vec<u8>> {
    answers_instead(own, bytes, |values| {
        for data in values {
            data.value = DataValue::Single(666u32.to_be_bytes().to_vec());
            data.storage_time += 60;
        }
    })
}

/// A storer that has kept what the owner said first, and gives that, for every owner it is asked of.
pub fn keep_old(own: Id, bytes: Vec<u8>) -> Option<Vec<u8>> {
    answers_instead(own, bytes, |values| {
        for data in values {
            let Some(SignerIdentity::Peer(owner)) = data.signature.as_ref().map(|it| &it.identity)
            else {
                continue;
            };
            let input =
                |resource| data.signature_input(resource, RECORD, &SignerIdentity::Peer(*owner));
            let is_at = |resource: &Id| {
                let input = input(*resource).expect("a short value");
                data.signature.as_ref().map(|it| &it.value) == Some(&mark(*owner, &input))
            };
            if let Some(resource) = places(*owner).into_iter().find(is_at) {
                *data = said(*owner, resource, FIRST, data.storage_time - AGE);
            }
        }
    })
}

/// What every owner says first, and what it says then.
pub const FIRST: u32 = 1;
const LATER: u32 = 2;
/// Seconds between the two.
const AGE: u32 = 60;

/// What readers believe of records that have been said anew.
#[derive(Default, Debug)]
pub struct Believed {
    /// What the owner says now.
    pub right: usize,
    /// What it has said once.
    pub old: usize,
    /// Nothing.
    pub none: usize,
    /// What no owner has said.
    pub wrong: usize,
    /// Of all single copies: those that were right.
    pub right_copies: usize,
    /// Values that were not believed.
    pub refused: usize,
}

impl Believed {
    /// Of those asked, per cent.
    pub fn right_percent(&self) -> f64 {
        let asked = self.right + self.old + self.none + self.wrong;
        100.0 * self.right as f64 / asked as f64
    }

    /// What a reader would have who asked for one copy alone, per cent.
    pub fn right_copies_percent(&self) -> f64 {
        let asked = 2 * (self.right + self.old + self.none + self.wrong);
        100.0 * self.right_copies as f64 / asked as f64
    }
}

/// Every owner stores both copies of its record, and waits for the answers.
pub fn publish(sim: &mut Sim, owners: &[usize]) {
    for owner in owners {
        let id = sim.id(*owner);
        for resource in places(id) {
            let request = StoreRequest {
                resource,
                types: vec![StoreType {
                    kind: RECORD,
                    generation: 0,
                    values: vec![said(id, resource, LATER, sim.now().unix as u32)],
                }],
            };
            let options = RequestOptions::default();
            sim.with(*owner, |node, now| node.ask(now, &request, options));
        }
        sim.run(Duration::from_millis(20));
    }
    sim.run(Duration::from_secs(35));
    sim.answers.clear();
}

/// Each of the readers asks for both copies of each record, and believes the newest that is its owner's.
pub fn readers_believe(sim: &mut Sim, readers: &[usize], owners: &[usize]) -> Believed {
    let mut believed = Believed::default();
    for reader in readers {
        let ask = |sim: &mut Sim, resource| -> RequestId {
            let request = References {
                resource,
                types: vec![FetchType {
                    kind: RECORD,
                    generation: 0,
                    reference: Reference::Single,
                }],
            };
            // The time that a resolver has (reload.md §3).
            let options = RequestOptions {
                budget: Duration::from_secs(5),
                log: false,
            };
            let sent = sim.with(*reader, |node, now| {
                node.ask(now, &Fetch(&request), options)
            });
            sent.expect("a live node").expect("a node with room")
        };
        let mut asked = Vec::new();
        for owner in owners {
            let copies = places(sim.id(*owner)).map(|resource| ask(sim, resource));
            asked.push(copies);
            sim.run(Duration::from_millis(20));
        }
        sim.run(Duration::from_secs(6));
        for copies in asked {
            let mut newest: Option<(u32, u32)> = None;
            for request in copies {
                let answer = sim.answers.remove(&(*reader, request));
                let Some(Ok(answer)) = answer else { continue };
                let AnswerBody::Values { found, refused } = answer.body else {
                    continue;
                };
                believed.refused += refused;
                let values = found.iter().flat_map(|one| &one.values);
                for data in values.filter(|data| data.signature.is_some()) {
                    let bytes = data.value.bytes().try_into();
                    let number = u32::from_be_bytes(bytes.unwrap_or_default());
                    believed.right_copies += usize::from(number == LATER);
                    newest = newest.max(Some((data.storage_time, number)));
                }
            }
            *match newest {
                Some((_, LATER)) => &mut believed.right,
                Some((_, FIRST)) => &mut believed.old,
                Some(_) => &mut believed.wrong,
                None => &mut believed.none,
            } += 1;
        }
    }
    believed
}
