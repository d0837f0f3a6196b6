//! Bodies of the ten methods and of their responses.
mod connect;
mod data;
mod value;

pub use connect::{ConnectBody, MAX_CANDIDATE, MAX_CANDIDATES, Role};
pub use data::{
    ArrayRange, Fetch, FetchResponse, FetchType, FindRequest, FindResult, Generation, Packed,
    Reference, References, Remove, ResourceRequest, StoreRequest, StoreType,
};
pub use value::{DataModel, DataValue, StoredData, TypeId};

use crate::codec::{self, Reader, Write};
use crate::{Id, ReloadError};

/// Ids in one list of an UPDATE: what 255 bytes hold (RD52).
pub const MAX_UPDATE_IDS: usize = 15;

/// PING request: what the requester wants to know (R55). Unknown numbers are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PingRequest {
    /// [`PingInfo`] types, in the order wanted.
    pub infos: Vec<u8>,
}

/// What a PING can ask (R55, R56).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PingInfo {
    /// 1: parts per billion of the ring that the responder is responsible for.
    Responsible(u32),
    /// 2: resources that it stores.
    Resources(u32),
}

impl PingInfo {
    /// Type number of [`PingInfo::Responsible`].
    pub const RESPONSIBLE: u8 = 1;
    /// Type number of [`PingInfo::Resources`].
    pub const RESOURCES: u8 = 2;
}

/// PING response (R56).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PingResponse {
    /// Random; tells the answers to a multicast apart.
    pub response_id: u64,
    /// What was asked and is known, in the order asked (R57).
    pub infos: Vec<PingInfo>,
}

impl PingRequest {
    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, "a PING request");
        let infos = r.vec8()?.to_vec();
        r.end()?;
        Ok(Self { infos })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        Write::vec8(&mut out, "the PING types", |out| out.raw(&self.infos))?;
        Ok(out)
    }
}

impl PingResponse {
    /// Reads the body. Types that this program does not know are passed over: their length is known (RD4).
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        const WHAT: &str = "a PING response";
        let mut r = Reader::new(bytes, WHAT);
        let response_id = r.u64()?;
        let infos = Reader::sub(r.vec16()?, WHAT).each(|r| {
            let tag = r.u8()?;
            let mut value = Reader::sub(r.vec8()?, WHAT);
            let info = match tag {
                PingInfo::RESPONSIBLE => Some(PingInfo::Responsible(value.u32()?)),
                PingInfo::RESOURCES => Some(PingInfo::Resources(value.u32()?)),
                _ => None,
            };
            if info.is_some() {
                value.end()?;
            }
            Ok(info)
        })?;
        r.end()?;
        Ok(Self {
            response_id,
            infos: infos.into_iter().flatten().collect(),
        })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        out.u64(self.response_id);
        out.vec16("PING information", |out| {
            for info in &self.infos {
                let (tag, value) = match info {
                    PingInfo::Responsible(ppb) => (PingInfo::RESPONSIBLE, ppb),
                    PingInfo::Resources(count) => (PingInfo::RESOURCES, count),
                };
                out.u8(tag);
                out.u8(4);
                out.u32(*value);
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// TUNNEL request (R61, RD34). The response is empty: it confirms arrival only (R62).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunnelRequest {
    /// IANA port of the application's protocol.
    pub application: u16,
    /// Which conversation. Raw bytes: the draft calls it a string, and we hold it to UTF-8.
    pub dialog: String,
    /// One unit of the application, at most 65,000 bytes.
    pub pdu: Vec<u8>,
}

impl TunnelRequest {
    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, "a TUNNEL request");
        let body = Self {
            application: r.u16()?,
            dialog: r.string()?,
            pdu: r.vec16()?.to_vec(),
        };
        r.end()?;
        Ok(body)
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::with_capacity(6 + self.dialog.len() + self.pdu.len());
        out.u16(self.application);
        out.bytes16("the dialog id", self.dialog.as_bytes())?;
        out.bytes16("the application's unit", &self.pdu)?;
        Ok(out)
    }
}

/// JOIN and LEAVE requests: who, and what the DHT adds (R88, R90). Chord adds nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The peer that joins or leaves.
    pub peer: Id,
    /// To the end of the payload (RD3).
    pub data: Vec<u8>,
}

impl Membership {
    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, "a JOIN or LEAVE request");
        Ok(Self {
            peer: r.id()?,
            data: r.rest().to_vec(),
        })
    }

    /// The body.
    pub fn emit(&self) -> Vec<u8> {
        [&self.peer.0[..], &self.data].concat()
    }
}

/// Chord's UPDATE: the sender's neighbours, nearest first (R114).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChordUpdate {
    /// At most 15 (RD52).
    pub predecessors: Vec<Id>,
    /// At most 15 (RD52).
    pub successors: Vec<Id>,
}

impl ChordUpdate {
    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        const WHAT: &str = "an UPDATE request";
        let mut r = Reader::new(bytes, WHAT);
        let body = Self {
            predecessors: codec::ids(r.vec8()?, WHAT)?,
            successors: codec::ids(r.vec8()?, WHAT)?,
        };
        r.end()?;
        Ok(body)
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        for list in [&self.predecessors, &self.successors] {
            Write::vec8(&mut out, "neighbours", |out| {
                list.iter().for_each(|id| out.raw(&id.0));
            })?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{Code, Contents, Kind, Method, emit_contents};
    use crate::header::Header;
    use crate::vectors::bytes;

    fn request(method: Method, payload: &[u8]) -> Vec<u8> {
        emit_contents(Kind::Request(method as u16), payload)
    }

    fn payload(vector: &str) -> Vec<u8> {
        Contents::parse(&bytes(vector)).unwrap().payload.to_vec()
    }

    fn id(n: u8) -> Id {
        Id([n * 0x11; 16])
    }

    // R55, R56, R57, RD4
    #[test]
    fn ping_is_that_of_the_vectors() {
        let message = bytes("ping-request-unsigned");
        let contents = Contents::parse(Header::parse(&message).unwrap().1).unwrap();
        let ping = PingRequest::parse(contents.payload).unwrap();
        assert_eq!(ping.infos, [1, 2]);
        assert_eq!(ping.emit().unwrap(), contents.payload);

        let message = bytes("ping-response-unsigned");
        let contents = Contents::parse(Header::parse(&message).unwrap().1).unwrap();
        assert_eq!(contents.kind, Kind::Response(Code::OK));
        let pong = PingResponse::parse(contents.payload).unwrap();
        assert_eq!(
            pong.infos,
            [PingInfo::Responsible(250_000_000), PingInfo::Resources(7)]
        );
        assert_eq!(pong.emit().unwrap(), contents.payload);
    }

    // RD4: a type of the future
    #[test]
    fn unknown_ping_information_is_passed_over() {
        let mut body = 5u64.to_be_bytes().to_vec();
        body.extend_from_slice(&[0, 11, 9, 3, 1, 2, 3, 2, 4, 0, 0, 0, 8]);
        assert_eq!(
            PingResponse::parse(&body).unwrap().infos,
            [PingInfo::Resources(8)]
        );
    }

    // R61, RD34
    #[test]
    fn tunnel_is_that_of_the_vectors() {
        let tunnel = TunnelRequest {
            application: 8737,
            dialog: "flow-1".into(),
            pdu: vec![0, 1, 2, 3],
        };
        let body = tunnel.emit().unwrap();
        assert_eq!(
            request(Method::Tunnel, &body),
            bytes("tunnel-request-contents")
        );
        assert_eq!(TunnelRequest::parse(&body).unwrap(), tunnel);
        let raw = TunnelRequest {
            pdu: vec![0xff, 0],
            ..tunnel.clone()
        };
        assert_eq!(TunnelRequest::parse(&raw.emit().unwrap()).unwrap(), raw);
        let huge = TunnelRequest {
            pdu: vec![0; 65_001],
            ..tunnel
        };
        assert!(huge.emit().is_err());
    }

    // R88, R90, RD3
    #[test]
    fn join_and_leave_are_those_of_the_vectors() {
        for (method, vector) in [
            (Method::Join, "join-request-contents"),
            (Method::Leave, "leave-request-contents"),
        ] {
            let body = Membership::parse(&payload(vector)).unwrap();
            assert_eq!(body.peer, id(1));
            assert!(body.data.is_empty());
            assert_eq!(request(method, &body.emit()), bytes(vector));
        }
        let more = Membership::parse(&[5; 20]).unwrap();
        assert_eq!(more.data, [5; 4]);
        assert!(Membership::parse(&[5; 15]).is_err());
    }

    // R114, RD52
    #[test]
    fn update_is_that_of_the_vectors() {
        let update = ChordUpdate::parse(&payload("chord-update-request-contents")).unwrap();
        assert_eq!(update.predecessors, [id(1), id(2), id(3)]);
        assert_eq!(update.successors, [id(4), id(5)]);
        assert_eq!(
            request(Method::Update, &update.emit().unwrap()),
            bytes("chord-update-request-contents")
        );
        let full = ChordUpdate {
            predecessors: vec![id(1); MAX_UPDATE_IDS],
            successors: vec![],
        };
        assert!(full.emit().is_ok());
        let over = ChordUpdate {
            predecessors: vec![id(1); MAX_UPDATE_IDS + 1],
            successors: vec![],
        };
        assert!(over.emit().is_err());
        // 17 bytes are no whole number of ids
        let mut odd = vec![17];
        odd.extend_from_slice(&[1; 17]);
        odd.push(0);
        assert!(ChordUpdate::parse(&odd).is_err());
    }

    // RD74: every body at every wrong length
    #[test]
    fn cut_bodies_are_refused() {
        type Parse = fn(&[u8]) -> bool;
        let cases: [(&str, Parse); 3] = [
            ("tunnel-request-contents", |b| {
                TunnelRequest::parse(b).is_ok()
            }),
            ("chord-update-request-contents", |b| {
                ChordUpdate::parse(b).is_ok()
            }),
            ("connect-request-contents", |b| {
                ConnectBody::parse(b).is_ok()
            }),
        ];
        for (vector, parse) in cases {
            let body = payload(vector);
            assert!(parse(&body));
            for len in 0..body.len() {
                assert!(!parse(&body[..len]), "{vector}: {len}");
            }
            assert!(!parse(&[&body[..], &[0]].concat()), "{vector}: longer");
        }
    }
}
