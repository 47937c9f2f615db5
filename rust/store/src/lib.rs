//! bide-store
