//! ess-http
