//! ess-hub
