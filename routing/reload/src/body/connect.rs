//! CONNECT (R58, RD30 to RD33): request and response have the same body.
use crate::ReloadError;
use crate::codec::{Reader, Write};

/// Candidates in one CONNECT (RD31).
pub const MAX_CANDIDATES: usize = 32;
/// Bytes of one candidate (RD31).
pub const MAX_CANDIDATE: usize = 256;

/// Who opens (D)TLS (R99, RD33). The requester sends `passive` and is the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Client.
    Active,
    /// Server.
    Passive,
    /// Either.
    ActPass,
}

impl Role {
    fn text(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        }
    }
}

/// What one side tells the other to form a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectBody {
    /// ICE user name fragment.
    pub ufrag: String,
    /// ICE password.
    pub password: String,
    /// IANA port of the protocol to be run: 6084 RELOAD, 8737 Anode, 5060 SIP (RD30).
    pub application: u16,
    /// `SHA-256 AA:BB…` of the link certificate (RFC 4572, RD68).
    pub fingerprint: String,
    /// Who opens the security layer.
    pub role: Role,
    /// Values of RFC 5245 candidate attributes with the prefix `candidate:`, best first (RD31).
    pub candidates: Vec<String>,
}

impl ConnectBody {
    /// RELOAD itself (RD30).
    pub const RELOAD: u16 = 6084;
    /// Anode's own socket (RD30).
    pub const ANODE: u16 = 8737;

    /// For a link inside a sealed session, where neither ICE nor a certificate has a part.
    pub fn sealed(role: Role) -> Self {
        Self {
            ufrag: String::new(),
            password: String::new(),
            application: Self::RELOAD,
            fingerprint: String::new(),
            role,
            candidates: Vec::new(),
        }
    }

    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        const WHAT: &str = "a CONNECT";
        let mut r = Reader::new(bytes, WHAT);
        let (ufrag, password) = (r.string()?, r.string()?);
        let application = r.u16()?;
        let fingerprint = r.string()?;
        let role = match r.string()?.as_str() {
            "active" => Role::Active,
            "passive" => Role::Passive,
            "actpass" => Role::ActPass,
            _ => {
                return Err(ReloadError::Invalid {
                    what: WHAT,
                    why: "its role is none of active, passive, actpass",
                });
            }
        };
        let mut candidates = Vec::new();
        let mut list = Reader::sub(r.vec16()?, WHAT);
        while !list.is_empty() {
            let candidate = list.string()?;
            limit("candidates", candidates.len() + 1, MAX_CANDIDATES)?;
            limit("a candidate", candidate.len(), MAX_CANDIDATE)?;
            candidates.push(candidate);
        }
        r.end()?;
        Ok(Self {
            ufrag,
            password,
            application,
            fingerprint,
            role,
            candidates,
        })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        limit("candidates", self.candidates.len(), MAX_CANDIDATES)?;
        let mut out = Vec::new();
        out.bytes16("a user name fragment", self.ufrag.as_bytes())?;
        out.bytes16("a password", self.password.as_bytes())?;
        out.u16(self.application);
        out.bytes16("a fingerprint", self.fingerprint.as_bytes())?;
        out.bytes16("a role", self.role.text().as_bytes())?;
        out.vec16("candidates", |out| {
            self.candidates.iter().try_for_each(|candidate| {
                limit("a candidate", candidate.len(), MAX_CANDIDATE)?;
                out.bytes16("a candidate", candidate.as_bytes())
            })
        })?;
        Ok(out)
    }
}

fn limit(what: &'static str, len: usize, limit: usize) -> Result<(), ReloadError> {
    match len <= limit {
        true => Ok(()),
        false => Err(ReloadError::TooLong { what, len, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{Contents, Kind, Method, emit_contents};
    use crate::vectors::bytes;

    // R58, R99, RD30, RD31, RD33
    #[test]
    fn connect_is_that_of_the_vectors() {
        let vector = bytes("connect-request-contents");
        let body = ConnectBody::parse(Contents::parse(&vector).unwrap().payload).unwrap();
        assert_eq!(body.ufrag, "8hhY");
        assert_eq!(body.application, ConnectBody::RELOAD);
        assert_eq!(body.role, Role::Passive);
        assert!(body.fingerprint.starts_with("SHA-256 00:01:"));
        assert_eq!(body.candidates.len(), 2);
        assert!(body.candidates[0].starts_with("candidate:1 1 UDP "));
        assert_eq!(
            emit_contents(Kind::Request(Method::Connect as u16), &body.emit().unwrap()),
            vector
        );
    }

    // RD31
    #[test]
    fn candidates_are_bounded_in_number_and_length() {
        let mut body = ConnectBody::sealed(Role::Active);
        body.candidates = vec!["x".repeat(MAX_CANDIDATE); MAX_CANDIDATES];
        let good = body.emit().unwrap();
        assert_eq!(ConnectBody::parse(&good).unwrap(), body);
        body.candidates.push("x".into());
        assert!(body.emit().is_err());
        body.candidates = vec!["x".repeat(MAX_CANDIDATE + 1)];
        assert!(body.emit().is_err());
        let mut many = ConnectBody::sealed(Role::Active).emit().unwrap();
        many.truncate(many.len() - 2);
        many.extend_from_slice(&(2u16 * 33).to_be_bytes());
        many.extend_from_slice(&[0; 66]);
        assert!(ConnectBody::parse(&many).is_err());
    }

    #[test]
    fn other_roles_are_refused() {
        let good = ConnectBody::sealed(Role::ActPass).emit().unwrap();
        let at = good.windows(7).position(|seven| seven == b"actpass");
        let mut other = good.clone();
        other[at.unwrap()..][..7].copy_from_slice(b"holdcon");
        assert!(ConnectBody::parse(&good).is_ok());
        assert!(ConnectBody::parse(&other).is_err());
    }
}
