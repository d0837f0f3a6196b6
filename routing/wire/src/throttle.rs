//! When an ERROR may answer.
