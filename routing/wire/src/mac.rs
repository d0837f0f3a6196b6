//! AES-DIGEST, key folding and the packet MAC (Anode 0.8 §2.4 to §2.6, §3.3).

/// A prepared CMAC-AES-256 key of a pair of addresses. Zeroised on drop.
pub struct MacKey {}
impl MacKey {
    /// From the 32 derived bytes.
    pub fn new(_key: &[u8; 32]) -> Self { todo!() }
    /// The folded 8-byte MAC of a whole packet (the MAC field's present content does not matter; hop count is outside).
    pub fn packet_mac(&self, _packet: &[u8]) -> [u8; 8] { todo!() }
    /// Writes the MAC into the packet.
    pub fn sign(&self, _packet: &mut [u8]) { todo!() }
    /// Compares in constant time.
    pub fn verify(&self, _packet: &[u8]) -> bool { todo!() }
}
/// AES-DIGEST of the draft, as decided in D11.
pub fn aes_digest(_message: &[u8]) -> [u8; 16] { todo!() }
/// The draft's key folding (A27, D10).
pub fn fold_key(_raw: &[u8], _derived: &mut [u8]) { todo!() }
