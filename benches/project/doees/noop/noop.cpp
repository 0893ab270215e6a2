#include <isms/doee.hpp>

// The least that a function can do.
ISMS_DOEE(Noop) {
    isms::Response execute(isms::Request &) override { return isms::Response::text("hello"); }
};
