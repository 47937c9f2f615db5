//! bide-core
