#include <isms/doee.hpp>

// One indexed SELECT.
ISMS_DOEE(Select) {
    isms::Database database;

    void initialize(isms::Context &context) override { database = context.database("data"); }

    isms::Response execute(isms::Request &request) override {
        const auto results = database.query(request, {"SELECT value FROM readings WHERE machine = ?", "m2"});
        return isms::Response::text(std::to_string(results[0].size()));
    }
    void terminate() override {}
};
