//! The store: round trips, group commit, and what is and is not damage.
