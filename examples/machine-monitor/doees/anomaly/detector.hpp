// The detector: an exponentially weighted mean and variance, and a limit in standard deviations.
//
// It is online: each reading is judged by what came before it, then learned from. All that it knows is
// in State, so that any worker can go on where another one has stopped.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

/// What is known about a machine: a row of the table `machines`.
struct State {
    std::int64_t version = 0; // 0: there is no row yet
    std::int64_t count = 0;
    double sum = 0;
    double min = 0;
    double max = 0;
    std::int64_t anomalies = 0;
    double mean = 0;
    double variance = 0;
};

/// Why a reading is an anomaly: what was expected, and the standard deviation from it.
struct Alarm {
    double mean;
    double deviation;
};

struct Detector {
    double mean_window = 12;
    double variance_window = 2016;
    double limit = 4;
    std::int64_t warm_up = 576;

    /// Judges a value and learns from it.
    std::optional<Alarm> feed(State &state, double value) const {
        count(state, value);
        if (state.count == 1) {
            state.mean = value;
            return std::nullopt;
        }
        const Alarm expected{state.mean, std::sqrt(state.variance)};
        const double difference = value - state.mean;
        state.mean += difference / mean_window;
        state.variance += (difference * (value - state.mean) - state.variance) / variance_window;
        if (state.count <= warm_up || std::abs(difference) <= limit * expected.deviation) return std::nullopt;
        ++state.anomalies;
        return expected;
    }

  private:
    static void count(State &state, double value) {
        state.min = state.count == 0 ? value : std::min(state.min, value);
        state.max = state.count == 0 ? value : std::max(state.max, value);
        state.sum += value;
        ++state.count;
    }
};
