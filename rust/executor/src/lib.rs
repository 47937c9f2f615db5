//! bide-executor
