// A Doee in C++ that asks a server outside.
#include <isms/http.hpp>

ISMS_DOEE(Fetcher) {
    void initialize(isms::Context &) override {}

    isms::Response execute(isms::Request &request) override {
        if (request.path() == "/stream") {
            isms::HttpAnswer answer = isms::fetch(request, isms::HttpRequest("GET", "http://a.b/"));
            return isms::Response::text(std::to_string(answer.body(16 * 1024 * 1024).size()));
        }
        const auto asked = isms::HttpRequest("PUT", "http://a.b/").header("x-a", "1").json(isms::Json::object({{"n", 7}})).timeout_ms(250).redirects(2);
        isms::HttpAnswer answer = isms::fetch(request, asked);
        return isms::Response::json(isms::Json::object({{"status", answer.status()}, {"url", answer.url()}, {"x-b", answer.header("x-b")},
                                                        {"none", answer.header("none")}, {"len", answer.body_len().value_or(0)}, {"body", answer.json()}}));
    }

    void terminate() override {}
};
