#include <isms/doee.hpp>

// The least that a function can do.
ISMS_DOEE(Noop) {
    void initialize(isms::Context &) override {}
    isms::Response execute(isms::Request &) override { return isms::Response::text("hello"); }
    void terminate() override {}
};
