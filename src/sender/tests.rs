//! The sender as a whole.
