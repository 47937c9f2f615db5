//! bide-testkit
