//! ess-core
