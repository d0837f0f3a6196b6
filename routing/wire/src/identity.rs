//! A key pair and its address (Anode 0.8 §2.2, §2.4).
use crate::{Address, MacKey, WireError, Zone};

/// The private scalar and the address it makes. Zeroised on drop; `Debug` shows the address only.
pub struct Identity { address: Address }
impl Identity {
    /// A new key in the given zone.
    pub fn generate(_zone: Zone, _rng: &mut dyn rand_core::CryptoRng) -> Self { todo!() }
    /// From 32 big-endian bytes of the scalar.
    pub fn from_scalar(_zone: Zone, _scalar: &[u8; 32]) -> Result<Self, WireError> { todo!() }
    /// From `ANODE-256-40:<base32>:<64 hex digits>`; refused where address and key do not belong together.
    pub fn from_identity_string(_text: &str) -> Result<Self, WireError> { todo!() }
    /// `ANODE-256-40:<base32>:<64 hex digits>`.
    pub fn identity_string(&self) -> zeroize::Zeroizing<String> { todo!() }
    /// The address.
    pub fn address(&self) -> &Address { &self.address }
    /// ECDH with `other` and the draft's derivation to 32 bytes, ready for CMAC (A27, A28); about 0.3 ms.
    pub fn agree(&self, _other: &Address) -> MacKey { todo!() }
}
