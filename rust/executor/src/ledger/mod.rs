//! The ledger: the only way to a store's writes of runs.
//!
//! Events go in. They are applied to their runs, committed in one batch, and only then does anything follow from them.
//!
//! | file | |
//! |---|---|
//! | `group.rs` | results that gather on a slot, so that one transaction serves many |
//! | `request.rs` | what a thread wants committed, and what comes of it |
//! | `commit.rs` | the commit lock; one thread commits for all who wait |
//! | `write.rs` | the call of the store |
//! | `committer.rs` | the thread that commits what no other does |
//! | `upcalls.rs`, `effects.rs` | what the ledger asks of the engine; what follows a commit |

mod applied;
mod commit;
mod committer;
mod effects;
mod group;
mod request;
mod upcalls;
mod write;

pub(crate) use effects::CommitPath;
pub(crate) use group::{Completion, Group, QueuedEvent};
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
pub use request::Lost;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The files under a folder that call the store's writes of runs.
    fn writers(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                writers(&path, found);
                continue;
            }
            let source: String = fs::read_to_string(&path).expect("a source").split_whitespace().collect();
            let writes =
                |call: &&str| source.contains(&format!("store().{call}")) || source.contains(&format!("store.{call}"));
            if ["commit(lease", "create(lease", "write(lease"].iter().any(writes) {
                found.push(path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a source").display().to_string());
            }
        }
    }

    #[test]
    fn runs_are_written_by_the_ledger_alone() {
        let mut found = Vec::new();
        writers(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.sort();
        // One is a store itself: it passes calls on to another one. The last creates a run that nobody executes.
        assert_eq!(found, ["src/ledger/commit.rs", "src/ledger/write.rs", "src/retrying.rs", "src/runs/fork.rs"]);
    }
}
