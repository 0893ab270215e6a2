#include <isms/doee.hpp>

// A Doee. Attributes and functions go between the braces, as in any class; the inheritance is added.
ISMS_DOEE(Hello) {
    std::string greeting;

    // Once per worker, before the first call: read parameters, prepare what all calls need.
    void initialize(isms::Context &context) override {
        greeting = context.param("greeting", "hello");
        context.log(isms::Level::Info, "ready");
    }

    // Once per call. What it throws becomes an error that the caller and the log see.
    isms::Response execute(isms::Request &request) override {
        const std::string name = request.query_parameter("name").value_or("world");
        return isms::Response::json(isms::Json::object({
            {"message", greeting + ", " + name},
            {"path", request.path()},
        }));
    }

    // Once per worker, after the last call.
    void terminate() override {}

    // Where to go from here:
    //   - a path with a parameter:  http = "GET /machines/{id}"  →  request.parameter("id")
    //   - a JSON body:              const isms::Json body = request.json();  body.at("value").number()
    //     A body that is no JSON is answered with 400 by itself. A member that is missing or of another type throws
    //     isms::JsonError; say whose mistake it is, or the caller sees 500:
    //         try { value = body.at("value").number(); }
    //         catch (const isms::JsonError &error) { return isms::Response::error(400, error.what()); }
    //   - a database:               database = context.database("data") in initialize, then in execute
    //         auto rows = database.query(request, {"SELECT a FROM t WHERE b = ?", 7})[0];
    //     and several statements that take effect together or not at all:
    //         database.transaction(request, {{"INSERT INTO t VALUES (?)", 1},
    //                                        isms::Statement("UPDATE u SET n = n + 1 WHERE id = ?", 2).demand(1)});
};
