//! Zone files (Anode 0.8 §2.1, §2.3.1).
