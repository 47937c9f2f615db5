//! How processes know each other: on one machine by what the system says of a process.

use std::fs;
use std::sync::OnceLock;

use crate::Boot;

/// A process, as its runners' rows name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number in the store: 0 for none yet.
    pub(super) number: i64,
    /// The boot and the namespace within which its pid is its own; empty if the system does not report them.
    pub(super) machine: String,
    /// Its pid.
    pub(super) pid: i64,
    /// When the system started it, in ticks since the boot; 0 if that is not known.
    pub(super) started: i64,
}

impl Process {
    /// This one.
    pub(super) fn own(number: i64) -> Self {
        let pid = i64::from(std::process::id());
        Self { number, machine: machine().to_owned(), pid, started: started(pid).unwrap_or(0) }
    }

    /// Whether it is known to be gone, because it was one of this machine.
    pub(super) fn is_gone(&self) -> bool {
        if self.machine.is_empty() || self.machine != machine() || self.started == 0 {
            return false;
        }
        started(self.pid) != Some(self.started)
    }
}

/// The boot of this machine and the namespace of this process's pid.
fn machine() -> &'static str {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let namespace = fs::read_link("/proc/self/ns/pid").ok();
        match (Boot::current(), namespace) {
            (Some(boot), Some(namespace)) => format!("{:032x} {}", boot.0, namespace.display()),
            _ => String::new(),
        }
    })
}

/// When a process was started. `None`: there is none, or it has ended and only waits for its parent to notice.
fn started(pid: i64) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may have spaces, ends with the last bracket.
    let mut rest = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = rest.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

/// This machine's name, for people who look at the rows.
pub(super) fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the pointer and the length are those of a live local array; the last byte is kept as a terminator.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    if result != 0 {
        return String::new();
    }
    String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_of_this_machine_is_gone_once_it_has_ended() {
        assert!(!Process::own(1).is_gone());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i64::from(child.id());
        let of_child = Process { pid, started: started(pid).unwrap(), ..Process::own(2) };
        assert!(!of_child.is_gone());
        // Another process that got the same pid.
        assert!(Process { started: of_child.started + 1, ..of_child.clone() }.is_gone());
        // Of another machine nothing is known.
        assert!(!Process { machine: "other".into(), pid: -1, ..of_child.clone() }.is_gone());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(of_child.is_gone());
    }
}
