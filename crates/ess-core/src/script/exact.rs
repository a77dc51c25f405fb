//! Numbers that a double cannot hold.
