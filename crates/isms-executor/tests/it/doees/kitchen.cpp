// What the C++ base class must get right.
#include <isms/doee.hpp>

ISMS_DOEE(Kitchen) {
    isms::Database readings;
    std::int64_t window = 0;

    void initialize(isms::Context &context) override {
        readings = context.database("readings");
        window = context.param<std::int64_t>("window", 12);
        if (context.param("fail", false)) throw std::runtime_error("initialize threw");
        context.log(isms::Level::Info, "initialized");
    }

    isms::Response execute(isms::Request &request) override {
        const auto path = request.path();
        if (path == "/hello") return isms::Response::json(isms::Json::object({{"window", window}, {"id", request.parameter("id")}}));
        if (path == "/throw") throw std::runtime_error("it was thrown");
        if (path == "/throw-int") throw 42;
        if (path == "/empty") return {};
        if (path == "/body") return isms::Response::text(std::to_string(request.body(64 * 1024 * 1024).size()));
        if (path == "/member") return isms::Response::json(request.json().at("a"));
        if (path == "/json") return isms::Response::json(request.json());
        if (path == "/query") return isms::Response::text(request.query_parameter("q").value_or("none"));
        if (path == "/stream") return stream();
        if (path == "/transaction") return transaction(request);
        return isms::Response::error(404, "no such path").header("X-Why", "test");
    }

    void terminate() override { throw std::runtime_error("terminate threw"); }

    isms::Response stream() {
        return isms::Response::stream(200, "application/octet-stream", [](isms::Writer &out) {
            const std::string block(100'000, 'x');
            for (int at = 0; at < 160; ++at) out.write(block);
        });
    }

    isms::Response transaction(isms::Request &request) {
        try {
            const auto results = readings.transaction(
                request, {isms::Statement("update t set a = ?", 1.5).demand(1), {"select a, b from t where c = ?", "x"}});
            const auto rows = results[1];
            return isms::Response::json(isms::Json::object({{"column", rows.column(0)}, {"a", rows[0].real(0)}, {"b", rows[0].text(1)}}));
        } catch (const isms::ConditionFailed &error) {
            return isms::Response::error(409, error.what());
        }
    }
};
