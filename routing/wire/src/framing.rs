//! Packets in a byte stream: TCP and HTTP bodies (Anode 0.8 §2.9).
