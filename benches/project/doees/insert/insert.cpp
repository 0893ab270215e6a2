#include <isms/doee.hpp>

// One durable INSERT.
ISMS_DOEE(Insert) {
    isms::Database database;

    void initialize(isms::Context &context) override { database = context.database("data"); }

    isms::Response execute(isms::Request &request) override {
        database.query(request, {"INSERT INTO readings (machine, value) VALUES (?, ?)", "bench", 1.5});
        return isms::Response::text("stored");
    }
    void terminate() override {}
};
