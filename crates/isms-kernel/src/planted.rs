//! Bugs that the mutation test plants, to show that the simulator finds them.

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
    /// One call more than a project's limit runs.
    OverLimit,
    /// An urgent call waits behind lower ones for which there is no room, though there is room for it.
    WaitsBehindLower,
    /// A queue that a project's limit holds up is not looked at again.
    LeavesHeldUp,
    /// A Doer that registers anew is not told what waits.
    ForgetsDemand,
    /// An asynchronous call is told of to who did not make it.
    TellsAnybody,
    /// An asynchronous call is cancelled when its caller is lost.
    DiesWithCaller,
    /// An asynchronous call makes room for another one.
    EvictsAccepted,
    /// A durable call is acknowledged before it is durable.
    AcknowledgesEarly,
    /// The end of a durable call is told before it is durable.
    TellsEarly,
    /// A durable call that the Doer still has after a loss is run again beside it.
    RunsTwice,
    /// Results are kept for ever.
    KeepsResults,
    /// The calls of a project that was deleted go on.
    SparesDeleted,
    /// An asynchronous call is counted when its answer begins, whatever becomes of its result.
    CountsHeads,
}

isms_simulation::plantable!(Bug);
