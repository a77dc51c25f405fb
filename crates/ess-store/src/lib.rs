//! ess-store
