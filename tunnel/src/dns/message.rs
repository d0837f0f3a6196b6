//! DNS messages: one question in, one answer out (RFC 1035, 6891, 2308). No IO.

use std::net::Ipv6Addr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::Zone;

/// The largest question that is read: a name of 255 bytes, and EDNS with a cookie and padding.
pub const QUESTION_MAX: usize = 1232;

/// The largest answer over UDP, whatever the asker says: no fragments on any link.
const UDP_MAX: u16 = 1232;

/// The smallest size of a UDP answer that everybody takes (RFC 1035 §4.2.1).
const UDP_MIN: u16 = 512;

/// Bytes of a header.
const HEADER: usize = 12;

/// For how long a denial holds: `anode trust` may name somebody at any time.
const NEGATIVE_TTL: u32 = 5;

/// For how long the zone's own records hold.
const ZONE_TTL: u32 = 3600;

/// One question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    id: u16,
    query: Query,
    recursion_desired: bool,
    edns: bool,
    udp_max: u16,
}

impl Question {
    /// About which name.
    pub fn name(&self) -> &Name {
        self.query.name()
    }

    /// Which records are wanted.
    pub fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// Whether the records of a type would answer it.
    pub fn wants(&self, kind: RecordType) -> bool {
        self.kind() == kind || self.kind() == RecordType::ANY
    }
}

/// What came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A question that deserves a look.
    Question(Box<Question>),
    /// None, and this tells the asker so.
    Complain(Vec<u8>),
    /// Nothing that may be answered: too short, or an answer.
    Nothing,
}

/// Reads what came.
pub fn read(bytes: &[u8]) -> Heard {
    let Some(header) = bytes.get(..HEADER) else {
        return Heard::Nothing;
    };
    if header[2] & 0x80 != 0 {
        // Two responders that answer each other's answers would never stop.
        return Heard::Nothing;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let complain = |code| {
        let op_code = OpCode::from_u8(header[2] >> 3 & 15);
        // A header alone can always be written.
        Message::error_msg(id, op_code, code)
            .to_vec()
            .map_or(Heard::Nothing, Heard::Complain)
    };
    if OpCode::from_u8(header[2] >> 3 & 15) != OpCode::Query {
        return complain(ResponseCode::NotImp);
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return complain(ResponseCode::FormErr);
    };
    let [query] = message.queries.as_slice() else {
        return complain(ResponseCode::FormErr);
    };
    let question = Question {
        id,
        query: query.clone(),
        recursion_desired: message.metadata.recursion_desired,
        edns: message.edns.is_some(),
        udp_max: message
            .edns
            .as_ref()
            .map_or(UDP_MIN, |edns| edns.max_payload().clamp(UDP_MIN, UDP_MAX)),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Heard::Complain(question.answer(None, Outcome::Code(ResponseCode::BADVERS), false));
    }
    if query.query_class() != DNSClass::IN {
        return Heard::Complain(question.answer(None, Outcome::Code(ResponseCode::Refused), false));
    }
    Heard::Question(Box::new(question))
}

/// What is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// These addresses, for so long.
    Addresses(Vec<Ipv6Addr>, Duration),
    /// The zone's own records.
    Apex,
    /// This name (without a last dot) stands for the address.
    Pointer(String),
    /// The name exists, and has no such record.
    Empty,
    /// There is no such name.
    Nobody,
    /// An error.
    Code(ResponseCode),
}

impl Question {
    /// The message that answers this; `zone` is who says so. Over UDP, what does not fit is asked for again over TCP.
    pub fn answer(&self, zone: Option<Zone>, outcome: Outcome, tcp: bool) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.authoritative = zone.is_some();
        message.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            message.set_edns(edns);
        }
        if let (Some(zone), Outcome::Empty | Outcome::Nobody) = (zone, &outcome) {
            message.add_authority(soa(zone));
        }
        match outcome {
            Outcome::Addresses(addresses, ttl) => {
                let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
                message.add_answers(addresses.into_iter().map(|ip| {
                    Record::from_rdata(self.name().clone(), ttl, RData::AAAA(ip.into()))
                }));
            }
            Outcome::Apex => message_apex(&mut message, self, zone),
            Outcome::Pointer(target) => match Name::from_ascii(target + ".") {
                Ok(target) => {
                    let pointer = RData::PTR(PTR(target));
                    message.add_answer(Record::from_rdata(
                        self.name().clone(),
                        NEGATIVE_TTL,
                        pointer,
                    ));
                }
                Err(_) => message.metadata.response_code = ResponseCode::ServFail,
            },
            Outcome::Empty => {}
            Outcome::Nobody => message.metadata.response_code = ResponseCode::NXDomain,
            Outcome::Code(code) => message.metadata.response_code = code,
        }
        let bytes = message.to_vec().unwrap_or_default();
        if !tcp && bytes.len() > usize::from(self.udp_max) {
            return message.truncate().to_vec().unwrap_or_default();
        }
        bytes
    }
}

fn message_apex(message: &mut Message, question: &Question, zone: Option<Zone>) {
    let Some(zone) = zone else { return };
    if question.wants(RecordType::SOA) {
        message.add_answer(soa(zone));
    }
    if question.wants(RecordType::NS) {
        let server = RData::NS(NS(zone.apex().clone()));
        message.add_answer(Record::from_rdata(zone.apex().clone(), ZONE_TTL, server));
    }
    if message.answers.is_empty() {
        message.add_authority(soa(zone));
    }
}

/// RFC 2308 §5: how long a denial holds is the lesser of this record's TTL and its last field.
fn soa(zone: Zone) -> Record {
    let apex = zone.apex();
    let start = SOA::new(
        apex.clone(),
        apex.clone(),
        1,
        3600,
        600,
        86400,
        NEGATIVE_TTL,
    );
    Record::from_rdata(apex.clone(), NEGATIVE_TTL, RData::SOA(start))
}

/// Whether what came back is an answer at all.
pub fn is_response(message: &Message) -> bool {
    message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
}
