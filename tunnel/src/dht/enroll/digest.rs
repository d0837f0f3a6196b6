//! HTTP Digest (RFC 7616), both sides: SHA-256, `qop=auth`. The draft asks for it (R126).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::state::book::hex;

/// Fields of one header.
const MAX_FIELDS: usize = 16;
/// Bytes of one header.
const MAX_HEADER: usize = 2048;

fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            hasher.update(b":");
        }
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// What a server keeps instead of a password: H(user:realm:password).
pub fn secret(user: &str, realm: &str, password: &str) -> Zeroizing<String> {
    Zeroizing::new(hash(&[user, realm, password]))
}

/// What a server asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Whose passwords are meant.
    pub realm: String,
    /// The server's number for this question.
    pub nonce: String,
    opaque: Option<String>,
}

impl Challenge {
    /// A question of this server.
    pub fn new(realm: &str, nonce: String) -> Self {
        Self {
            realm: realm.to_owned(),
            nonce,
            opaque: None,
        }
    }

    /// As a `WWW-Authenticate` header.
    pub fn header(&self) -> String {
        format!(
            "Digest realm=\"{}\", qop=\"auth\", algorithm=SHA-256, nonce=\"{}\"",
            self.realm, self.nonce
        )
    }

    /// Of a `WWW-Authenticate` header; `None`: it asks for something else than SHA-256 with `qop=auth`.
    pub fn parse(header: &str) -> Option<Self> {
        let fields = fields(header)?;
        let has = |name: &str, wanted: &str| {
            let words = fields.get(name).map(String::as_str).unwrap_or_default();
            words
                .split(',')
                .any(|word| word.trim().eq_ignore_ascii_case(wanted))
        };
        let safe = |name: &str| {
            let text = fields.get(name)?;
            (!text.contains(['"', '\\'])).then(|| text.clone())
        };
        if !has("algorithm", "SHA-256") || !has("qop", "auth") {
            return None;
        }
        Some(Self {
            realm: safe("realm")?,
            nonce: safe("nonce")?,
            opaque: safe("opaque"),
        })
    }

    /// The `Authorization` header that answers it. `cnonce` is random.
    pub fn answer(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
        cnonce: &str,
    ) -> String {
        let secret = secret(user, &self.realm, password);
        let response = response(&secret, method, uri, &self.nonce, "00000001", cnonce);
        let opaque = self.opaque.as_ref();
        let opaque = opaque.map_or(String::new(), |opaque| format!(", opaque=\"{opaque}\""));
        format!(
            "Digest username=\"{user}\", realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", algorithm=SHA-256, \
             qop=auth, nc=00000001, cnonce=\"{cnonce}\", response=\"{response}\"{opaque}",
            self.realm, self.nonce
        )
    }
}

fn response(secret: &str, method: &str, uri: &str, nonce: &str, nc: &str, cnonce: &str) -> String {
    let request = hash(&[method, uri]);
    hash(&[secret, nonce, nc, cnonce, "auth", &request])
}

/// An `Authorization` header.
pub struct Claim {
    fields: BTreeMap<String, String>,
}

impl Claim {
    /// Of the header's text.
    pub fn parse(header: &str) -> Option<Self> {
        Some(Self {
            fields: fields(header)?,
        })
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Who it says to be.
    pub fn user(&self) -> &str {
        self.field("username")
    }

    /// The question that it answers.
    pub fn nonce(&self) -> &str {
        self.field("nonce")
    }

    /// Whether it knows the secret, for this request.
    pub fn proves(&self, secret: &str, realm: &str, method: &str, uri: &str) -> bool {
        let said = |name: &str, wanted: &str| self.field(name).eq_ignore_ascii_case(wanted);
        if self.field("realm") != realm
            || self.field("uri") != uri
            || !said("algorithm", "SHA-256")
            || !said("qop", "auth")
        {
            return false;
        }
        let (nc, cnonce) = (self.field("nc"), self.field("cnonce"));
        let expected = response(secret, method, uri, self.nonce(), nc, cnonce);
        // Digests of both are compared: how much of them is alike says nothing of the answers.
        Sha256::digest(&expected) == Sha256::digest(self.field("response").to_ascii_lowercase())
    }
}

/// `Digest name=value, name="value", …`
fn fields(header: &str) -> Option<BTreeMap<String, String>> {
    let (scheme, mut rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("digest") || header.len() > MAX_HEADER {
        return None;
    }
    let mut fields = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            return Some(fields);
        }
        let (name, after) = rest.split_once('=')?;
        let value = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                rest = &quoted[end + 1..];
                &quoted[..end]
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                rest = &after[end..];
                after[..end].trim()
            }
        };
        if fields.len() >= MAX_FIELDS {
            return None;
        }
        fields.insert(name.trim().to_ascii_lowercase(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7616 §3.9.1
    #[test]
    fn the_example_of_the_standard_comes_out() {
        let secret = secret("Mufasa", "http-auth@example.org", "Circle of Life");
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let uri = "/dir/index.html";
        assert_eq!(
            response(&secret, "GET", uri, nonce, "00000001", cnonce),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    #[test]
    fn an_answer_proves_the_password_for_one_request() {
        let challenge = Challenge::new("home.example", "n1".to_owned());
        assert_eq!(
            Challenge::parse(&challenge.header()),
            Some(challenge.clone())
        );
        let header = challenge.answer("alice", "pass", "POST", "/x", "c1");
        let claim = Claim::parse(&header).unwrap();
        assert_eq!((claim.user(), claim.nonce()), ("alice", "n1"));
        let right = secret("alice", "home.example", "pass");
        assert!(claim.proves(&right, "home.example", "POST", "/x"));
        assert!(!claim.proves(&right, "home.example", "GET", "/x"));
        assert!(!claim.proves(&right, "home.example", "POST", "/y"));
        assert!(!claim.proves(&right, "other.example", "POST", "/x"));
        let wrong = secret("alice", "home.example", "passs");
        assert!(!claim.proves(&wrong, "home.example", "POST", "/x"));
        assert!(!header.contains("pass\""));
    }

    #[test]
    fn what_is_no_digest_is_passed_over() {
        for text in [
            "",
            "Digest",
            "Basic realm=\"x\"",
            "Digest realm=\"x\", nonce=\"y\"",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth-int\", algorithm=SHA-256",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\", algorithm=MD5",
            "Digest realm=\"x, nonce=y, qop=auth, algorithm=SHA-256",
            "Digest realm",
        ] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
        let many: String = (0..=MAX_FIELDS).map(|n| format!("a{n}=b,")).collect();
        assert!(Claim::parse(&format!("Digest {many}")).is_none());
        assert!(Claim::parse(&format!("Digest a=\"{}\"", "x".repeat(3000))).is_none());
    }
}
