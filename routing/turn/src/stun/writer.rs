//! Writing: for the control messages, which are few. What is relayed is framed by [`crate::frame`].

use std::net::SocketAddr;

use stun_types::attribute::{
    AttributeType, AttributeWrite, ErrorCode, RawAttribute, XorSocketAddr,
};
use stun_types::message::Method;
use stun_types::message::{
    Message as Builder, MessageClass, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
};

use super::message::transaction_number;
use super::{Class, Key, Mac, Message, TransactionId, attr, integrity};

/// A message being written. Everything put in is ours and small, so that nothing here can fail.
pub struct Writer {
    inner: MessageWriteVec,
    transaction: TransactionId,
}

impl Writer {
    /// Starts a message.
    #[must_use]
    pub fn new(class: Class, method: u16, transaction: TransactionId) -> Self {
        let class = match class {
            Class::Request => MessageClass::Request,
            Class::Indication => MessageClass::Indication,
            Class::Success => MessageClass::Success,
            Class::Error => MessageClass::Error,
        };
        let kind = MessageType::from_class_method(class, Method::new(method & 0xFFF));
        let id = transaction_number(&transaction).into();
        Self {
            inner: Builder::builder(kind, id, MessageWriteVec::with_capacity(160)),
            transaction,
        }
    }

    /// Starts the success answer to a request.
    #[must_use]
    pub fn success(request: &Message<'_>) -> Self {
        Self::new(Class::Success, request.method(), request.transaction())
    }

    /// Starts an error answer, with its ERROR-CODE.
    #[must_use]
    pub fn error(method: u16, transaction: TransactionId, code: u16) -> Self {
        let reason = ErrorCode::default_reason_for_code(code);
        let value = [
            &[0, 0, (code / 100) as u8, (code % 100) as u8],
            reason.as_bytes(),
        ]
        .concat();
        Self::new(Class::Error, method, transaction).raw(attr::ERROR_CODE, &value)
    }

    /// Adds a typed attribute.
    #[must_use]
    pub fn typed(mut self, attribute: &dyn AttributeWrite) -> Self {
        self.inner.push_attribute_unchecked(attribute);
        self
    }

    /// Adds an attribute by type and value (at most 65,535 bytes in all).
    #[must_use]
    pub fn raw(self, kind: u16, value: &[u8]) -> Self {
        self.typed(&RawAttribute::new(AttributeType::new(kind), value))
    }

    /// Adds an XORed address.
    #[must_use]
    pub fn xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let id = transaction_number(&self.transaction).into();
        let value = XorSocketAddr::new(address, id);
        self.typed(&value.to_raw(AttributeType::new(kind)))
    }

    /// Adds LIFETIME or any other 32-bit number.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Adds MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over all that is there.
    #[must_use]
    pub fn sign(self, key: &Key, mac: Mac) -> Self {
        let value = key.sign(mac, self.inner.data());
        self.raw(integrity::attribute(mac), &value)
    }

    /// Adds FINGERPRINT. It comes last.
    #[must_use]
    pub fn fingerprint(mut self) -> Self {
        // It fails only if there is one already or a limited buffer is full; this one is neither.
        let added = self.inner.add_fingerprint();
        debug_assert!(added.is_ok());
        self
    }

    /// How long it is now.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.data().len()
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.inner.finish()
    }
}
