//! Bugs that the mutation test plants, to show that the simulator finds them.
//!
//! Outside this crate's own tests [`planted`] is the constant `false`: no bug can be switched on in
//! a build that serves.

/// A bug at a place where a mistake is easily made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The record of an ended process stays in the table.
    KeepsEnded,
    /// One call more than the capacity is dispatched.
    OverCapacity,
    /// A cancelled call is answered at once, and again when its callee answers.
    AnswersTwice,
    /// Credit for a request's stream is not passed on.
    SkipsCredit,
    /// Classes run in the wrong order.
    WrongClassOrder,
    /// Calls that wait are forgotten when their service registers anew.
    LosesQueue,
    /// The callee of a call that timed out is believed when it answers late.
    BelievesLate,
    /// The caller of a call that timed out hears from its callee that it was cancelled.
    BlamesCaller,
    /// Children outlive the process on whose behalf they run.
    KeepsChildren,
    /// The end of a reply's stream frees no slot.
    LeaksSlot,
    /// A Doer that registers anew is not told what waits.
    ForgetsDemand,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in every Kernel of this thread, or removes it.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True when this bug is planted.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never true: bugs are planted in tests only.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
