// GET /machines/{id}/summary and GET /machines/{id}/anomalies.
#include <isms/doee.hpp>

namespace {
constexpr std::int64_t PAGE_ROWS = 5000; // read at a time; a transaction returns at most 10,000
}

ISMS_DOEE(History) {
    isms::Database database;

    void initialize(isms::Context &context) override { database = context.database("readings"); }

    isms::Response execute(isms::Request &request) override {
        const std::string machine(request.parameter("id"));
        const auto results = database.query(request, {"SELECT count, sum, min, max, anomalies FROM machines WHERE machine = ?", machine});
        const auto rows = results[0];
        if (rows.empty()) return isms::Response::error(404, "no reading of this machine was ever stored");
        if (request.route() == "/machines/{id}/summary") return summary(rows[0]);
        return anomalies(request, machine);
    }

    void terminate() override {}

    /// One row, kept up to date with each reading: its cost does not grow with the readings.
    static isms::Response summary(const isms::Row &row) {
        return isms::Response::json(isms::Json::object({
            {"count", row.integer(0)},
            {"mean", row.real(1) / static_cast<double>(row.integer(0))},
            {"min", row.real(2)},
            {"max", row.real(3)},
            {"anomalies", row.integer(4)},
        }));
    }

    /// All anomalies in commit order, read and written page by page.
    isms::Response anomalies(isms::Request &request, const std::string &machine) const {
        return isms::Response::stream(200, "application/json", [this, &request, machine](isms::Writer &out) {
            std::int64_t last = 0;
            std::string text = "[";
            for (std::size_t read = PAGE_ROWS; read == PAGE_ROWS;) {
                const auto results = database.query(
                    request, {"SELECT id, timestamp, value, mean, deviation FROM anomalies WHERE machine = ? AND id > ? ORDER BY id LIMIT ?",
                              machine, last, PAGE_ROWS});
                const auto rows = results[0];
                read = rows.size();
                for (std::size_t at = 0; at < read; ++at) {
                    const auto row = rows[at];
                    if (last != 0) text += ',';
                    last = row.integer(0);
                    text += isms::Json::object({{"timestamp", row.text(1)}, {"value", row.real(2)}, {"mean", row.real(3)}, {"deviation", row.real(4)}}).dump();
                }
                out.write(text);
                text.clear();
            }
            out.write("]");
        });
    }
};
