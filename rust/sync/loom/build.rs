//! Compiles `rust/sync/src/lib.rs` with loom's primitives in place of the standard library's, for this package alone.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=loom");
}
