// POST /readings: stores readings and finds the anomalies among them.
//
// Readings, the state of the detector and the anomalies are one transaction. It demands that the state
// has not changed since it was read; when it has, because another worker was faster, all is done again
// from the new state. So no update is lost, and one worker finds what eight find.
#include <isms/doee.hpp>

#include "detector.hpp"
#include "reading.hpp"

#include <map>

namespace {

constexpr int TRIES_MAX = 200;
constexpr std::size_t PARAMETERS_MAX = 999; // of one statement
constexpr std::size_t BODY_LEN_MAX = 1024 * 1024;
constexpr std::size_t JSON_VALUES_MAX = 100'000;

/// An anomaly, with the reading that is one.
struct Anomaly {
    const Reading *reading;
    Alarm alarm;
};

using States = std::map<std::string, State>;

/// "insert into … values (?, ?), (?, ?), …", as many statements as the limit of parameters asks for.
class Insert {
  public:
    Insert(std::vector<isms::Statement> &statements, std::string head, std::size_t columns)
        : statements_(statements), head_(std::move(head)), columns_(columns) {}

    void row(std::initializer_list<isms::Value> values) {
        const bool full = !open_ || statements_.back().parameters.size() + columns_ > PARAMETERS_MAX;
        if (full) statements_.emplace_back(head_);
        isms::Statement &statement = statements_.back();
        statement.sql += full ? " (?" : ", (?";
        for (std::size_t column = 1; column < columns_; ++column) statement.sql += ", ?";
        statement.sql += ')';
        for (const isms::Value &value : values) statement.add(value);
        open_ = true;
    }

  private:
    std::vector<isms::Statement> &statements_;
    std::string head_;
    std::size_t columns_;
    bool open_ = false;
};

} // namespace

ISMS_DOEE(AnomalyDoee) {
    isms::Database database;
    Detector detector;

    void initialize(isms::Context &context) override {
        database = context.database("readings");
        detector.mean_window = context.param("mean_window", detector.mean_window);
        detector.variance_window = context.param("variance_window", detector.variance_window);
        detector.limit = context.param("limit", detector.limit);
        detector.warm_up = context.param("warm_up", detector.warm_up);
        if (!(detector.mean_window >= 1) || !(detector.variance_window >= 1) || !(detector.limit > 0))
            throw std::invalid_argument("the windows are at least 1, and the limit is more than 0");
    }

    isms::Response execute(isms::Request &request) override {
        std::vector<Reading> readings;
        try {
            readings = parse_readings(request.json({BODY_LEN_MAX, 8, JSON_VALUES_MAX}));
        } catch (const std::length_error &) {
            return isms::Response::error(413, "the body has at most 1 MiB");
        } catch (const isms::JsonError &error) {
            return isms::Response::error(400, error.what());
        } catch (const BadReading &error) {
            return isms::Response::error(400, error.what());
        }
        States machines;
        for (const Reading &reading : readings) machines[reading.machine] = State();
        if (machines.size() > MACHINES_MAX) return isms::Response::error(400, "an array has readings of at most 100 machines");
        if (readings.empty()) return stored(0, 0);
        for (int attempt = 0; attempt < TRIES_MAX; ++attempt) {
            try {
                return stored(readings.size(), store(request, readings, machines));
            } catch (const isms::ConditionFailed &) {
                request.check();
            }
        }
        return isms::Response::error(503, "too many readings of this machine arrive at the same time: send them again")
            .header("retry-after", "1");
    }

    void terminate() override {}

    static isms::Response stored(std::size_t count, std::size_t anomalies) {
        return isms::Response::json(isms::Json::object({{"stored", count}, {"anomalies", anomalies}}));
    }

    /// Stores the readings on top of the machines' present state; returns how many are anomalies.
    std::size_t store(isms::Request &request, const std::vector<Reading> &readings, const States &machines) const {
        States states = read(request, machines);
        std::vector<Anomaly> anomalies;
        for (const Reading &reading : readings)
            if (const auto alarm = detector.feed(states.at(reading.machine), reading.value))
                anomalies.push_back({&reading, *alarm});

        std::vector<isms::Statement> statements;
        // First, so that a state that has changed stops the transaction before it writes anything.
        for (const auto &[machine, state] : states) statements.push_back(update(machine, state));
        Insert insert(statements, "INSERT INTO readings (machine, timestamp, value) VALUES", 3);
        for (const Reading &reading : readings) insert.row({reading.machine, reading.timestamp, reading.value});
        Insert record(statements, "INSERT INTO anomalies (machine, timestamp, value, mean, deviation) VALUES", 5);
        for (const auto &[reading, alarm] : anomalies)
            record.row({reading->machine, reading->timestamp, reading->value, alarm.mean, alarm.deviation});
        database.transaction(request, statements);
        return anomalies.size();
    }

    States read(isms::Request &request, const States &machines) const {
        isms::Statement select("SELECT machine, version, count, sum, min, max, anomalies, mean, variance FROM machines WHERE machine IN (?");
        for (std::size_t more = 1; more < machines.size(); ++more) select.sql += ", ?";
        select.sql += ')';
        for (const auto &[machine, state] : machines) select.add(machine);
        States states = machines;
        const auto results = database.query(request, std::move(select));
        const auto rows = results[0];
        for (std::size_t at = 0; at < rows.size(); ++at) {
            const auto row = rows[at];
            states.at(std::string(row.text(0))) = {row.integer(1), row.integer(2), row.real(3), row.real(4), row.real(5),
                                                   row.integer(6), row.real(7),    row.real(8)};
        }
        return states;
    }

    /// The row of a machine, on condition that nobody has changed it since it was read.
    static isms::Statement update(const std::string &machine, const State &state) {
        if (state.version == 0)
            return isms::Statement("INSERT INTO machines (version, count, sum, min, max, anomalies, mean, variance, machine) "
                                   "VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (machine) DO NOTHING",
                                   state.count, state.sum, state.min, state.max, state.anomalies, state.mean, state.variance, machine)
                .demand(1);
        return isms::Statement("UPDATE machines SET version = version + 1, count = ?, sum = ?, min = ?, max = ?, anomalies = ?, "
                               "mean = ?, variance = ? WHERE machine = ? AND version = ?",
                               state.count, state.sum, state.min, state.max, state.anomalies, state.mean, state.variance, machine,
                               state.version)
            .demand(1);
    }
};
