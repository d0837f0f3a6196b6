//! Whole-system tests of anode.
