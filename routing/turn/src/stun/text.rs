//! The five strings of STUN, their limits, and what happens to a name or password before it becomes a key.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

use super::attr;
use crate::TurnError;

/// Which of the five strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// USERNAME (T22).
    Username,
    /// REALM (T23).
    Realm,
    /// NONCE (T24).
    Nonce,
    /// SOFTWARE (T25).
    Software,
    /// The reason phrase of ERROR-CODE (T28).
    Reason,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Username => "USERNAME",
            Self::Realm => "REALM",
            Self::Nonce => "NONCE",
            Self::Software => "SOFTWARE",
            Self::Reason => "the reason phrase",
        })
    }
}

impl Text {
    pub(super) fn attribute(self) -> u16 {
        match self {
            Self::Username => attr::USERNAME,
            Self::Realm => attr::REALM,
            Self::Nonce => attr::NONCE,
            Self::Software => attr::SOFTWARE,
            Self::Reason => attr::ERROR_CODE,
        }
    }

    /// Checks a string that came from the network: UTF-8, at most 763 bytes (RFC 8489 §14.3, 14.9, 14.10, 14.14); all
    /// but USERNAME hold fewer than 128 characters.
    ///
    /// # Errors
    /// [`TurnError::Text`].
    pub fn received(self, bytes: &[u8]) -> Result<&str, TurnError> {
        if bytes.len() > 763 {
            return Err(TurnError::Text(self, "is longer than 763 bytes"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TurnError::Text(self, "is not UTF-8"))?;
        self.characters(text)
    }

    /// Checks a string that goes into the network: USERNAME fewer than 509 bytes; the others at most 509 bytes and
    /// fewer than 128 characters (RFC 8489).
    ///
    /// # Errors
    /// [`TurnError::Text`].
    pub fn sent(self, text: &str) -> Result<&str, TurnError> {
        let limit = if self == Self::Username { 508 } else { 509 };
        if text.len() > limit {
            return Err(TurnError::Text(self, "is longer than 509 bytes"));
        }
        self.characters(text)
    }

    fn characters(self, text: &str) -> Result<&str, TurnError> {
        if self != Self::Username && text.chars().count() > 127 {
            return Err(TurnError::Text(self, "is longer than 127 characters"));
        }
        Ok(text)
    }
}

/// SASLprep (RFC 4013), which RFC 5389 asks for: what keys are made of. `what` names the string in an error, because
/// the string itself may be a password.
///
/// # Errors
/// [`TurnError::Prepare`] for prohibited characters.
pub fn sasl_prep(what: &'static str, text: &str) -> Result<String, TurnError> {
    let prepared =
        stringprep::saslprep(text).map_err(|_| TurnError::Prepare(what, "SASLprep (RFC 4013)"))?;
    Ok(prepared.into_owned())
}

/// OpaqueString (RFC 8265 §4.2), which RFC 8489 asks for instead: other spaces become the plain one, then NFC.
/// Controls and the empty string are refused. The rest of the FreeformClass (unassigned and old Hangul code points)
/// is let through: it would refuse a password, never change one.
///
/// # Errors
/// [`TurnError::Prepare`].
pub fn opaque_string(what: &'static str, text: &str) -> Result<String, TurnError> {
    let spaces = |c: char| {
        if c != ' ' && c.is_whitespace() && !c.is_control() {
            ' '
        } else {
            c
        }
    };
    let prepared: String = text.chars().map(spaces).nfc().collect();
    if prepared.is_empty() || prepared.chars().any(char::is_control) {
        return Err(TurnError::Prepare(what, "OpaqueString (RFC 8265)"));
    }
    Ok(prepared)
}

/// A name or realm as it goes into a key: without trailing NULs and without the quotes around it (RFC 5389 §15.4,
/// T27). The attribute itself is echoed as it came.
#[must_use]
pub fn unquote(text: &str) -> &str {
    let text = text.trim_end_matches('\0');
    text.strip_prefix('"')
        .and_then(|t| t.strip_suffix('"'))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // T22, T23, T24, T25, T28
    #[test]
    fn limits_count_characters_and_bytes() {
        for text in [Text::Realm, Text::Nonce, Text::Software, Text::Reason] {
            assert!(
                text.sent(&"\u{20AC}".repeat(127)).is_ok(),
                "{text}: 127 characters of 381 bytes"
            );
            assert!(
                text.received("\u{20AC}".repeat(128).as_bytes()).is_err(),
                "{text}: 128 characters"
            );
            assert!(
                text.sent(&"\u{1F600}".repeat(127)).is_ok(),
                "{text}: 508 bytes"
            );
            assert!(text.received(&[b'x'; 764]).is_err(), "{text}: 764 bytes");
            assert!(text.received(&[0xFF, 0xFE]).is_err(), "{text}: no UTF-8");
        }
        assert!(Text::Username.sent(&"u".repeat(508)).is_ok());
        assert!(Text::Username.sent(&"u".repeat(509)).is_err());
        assert!(
            Text::Username.received(&[b'u'; 763]).is_ok(),
            "others may send up to 763 bytes"
        );
        assert!(Text::Username.received(&[b'u'; 764]).is_err());
    }

    // T22, T26: the examples of RFC 4013 §3 and the password of RFC 5769 §2.4
    #[test]
    fn saslprep_follows_its_rfc() {
        for (given, prepared) in [
            ("I\u{AD}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{AA}", "a"),
            ("\u{2168}", "IX"),
        ] {
            assert_eq!(
                sasl_prep("user name", given).as_deref(),
                Ok(prepared),
                "{given:?}"
            );
        }
        assert_eq!(
            sasl_prep("password", "The\u{AD}M\u{AA}tr\u{2168}").as_deref(),
            Ok("TheMatrIX")
        );
        for refused in ["\u{7}", "\u{627}1"] {
            let error = sasl_prep("password", refused).unwrap_err().to_string();
            assert!(
                !error.contains(refused),
                "an error never quotes a password: {error}"
            );
        }
    }

    // T22, T26: OpaqueString keeps what SASLprep folds, and both agree on ASCII
    #[test]
    fn opaque_string_follows_rfc_8265() {
        assert_eq!(
            opaque_string("password", "correct horse").as_deref(),
            Ok("correct horse")
        );
        assert_eq!(
            opaque_string("password", "foo\u{1680}bar").as_deref(),
            Ok("foo bar")
        );
        assert_eq!(
            opaque_string("password", "e\u{301}").as_deref(),
            Ok("\u{E9}")
        );
        assert_eq!(
            opaque_string("password", "\u{2168}").as_deref(),
            Ok("\u{2168}")
        );
        assert!(opaque_string("password", "").is_err());
        assert!(opaque_string("password", "my cat\tis").is_err());
    }

    // T27
    #[test]
    fn quotes_and_trailing_nuls_come_off() {
        for (given, bare) in [
            ("\"realm\"", "realm"),
            ("realm\0\0", "realm"),
            ("\"realm\"\0", "realm"),
            ("re\"alm", "re\"alm"),
            ("\"", "\""),
        ] {
            assert_eq!(unquote(given), bare);
        }
    }
}
