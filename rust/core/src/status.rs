//! The statuses of runs and tasks. Enums everywhere but at the storage boundary, where they are small integers
//! that never change their meaning.

macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The stored code.
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }

            /// From the stored code; `None` if no version of bide ever wrote it.
            #[must_use]
            pub const fn from_code(code: i64) -> Option<Self> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }

            /// The name, as users see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant)),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}
pub(crate) use stored_enum;

stored_enum! {
    /// The status of a run.
    RunStatus {
        /// Created, not yet begun by a runner.
        Pending = 0,
        /// Begun: its tasks run or wait.
        Running = 1,
        /// Stopped by a committed request, or because it cannot continue as it is.
        Paused = 2,
        /// Ended: no task failed.
        Completed = 3,
        /// Ended: at least one task failed for good.
        Failed = 4,
        /// Ended by a committed request.
        Cancelled = 5,
    }
}

stored_enum! {
    /// The status of a task of a run.
    TaskStatus {
        /// Waits for its dependencies, or for its gate.
        Pending = 0,
        /// May start: waits for a slot.
        Ready = 1,
        /// Its body has been entered; see `SubStatus`.
        Running = 2,
        /// Ended with an output.
        Completed = 3,
        /// Ended for good with an error.
        Failed = 4,
        /// Never started, or skipped itself.
        Skipped = 5,
        /// Ended by the run's cancellation.
        Cancelled = 6,
    }
}

stored_enum! {
    /// Whether a running task holds a slot.
    SubStatus {
        /// Its body executes, or is about to continue.
        Active = 0,
        /// It has released its slot while a wait is open.
        Deferred = 1,
    }
}

impl RunStatus {
    /// Completed, Failed or Cancelled.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl TaskStatus {
    /// Completed, Failed, Skipped or Cancelled.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled)
    }
}
