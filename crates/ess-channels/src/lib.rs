//! ess-channels
