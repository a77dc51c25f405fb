//! What scripts do.
