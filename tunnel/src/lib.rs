//! The program `anode` as a library.
