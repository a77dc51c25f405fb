//! What is special to a server: it may be gone, and come back.
