#include <isms/doee.hpp>

#include <chrono>

// A millisecond of a processor.
ISMS_DOEE(Busy) {
    void initialize(isms::Context &) override {}
    isms::Response execute(isms::Request &) override {
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
        while (std::chrono::steady_clock::now() < end) {
        }
        return isms::Response::text("done");
    }
    void terminate() override {}
};
