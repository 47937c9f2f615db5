//! Only this crate sees bide's sources with loom's locks and atomics in place of the standard library's.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=loom");
}
