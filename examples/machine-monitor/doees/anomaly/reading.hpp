// Readings as they come in, checked.
#pragma once

#include <isms/doee.hpp>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct Reading {
    std::string machine;
    std::string timestamp;
    double value;
};

/// A request that cannot be stored; answered with 400.
struct BadReading : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

constexpr std::size_t READINGS_MAX = 1000; // of one request
constexpr std::size_t MACHINES_MAX = 100;  // of one request
constexpr std::size_t NAME_LEN_MAX = 64;
constexpr double VALUE_MAX = 1e15; // its square is still far from the end of what a double holds

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Letters, digits, and . _ - within.
inline bool is_machine(std::string_view name) {
    const auto plain = [](char c) {
        return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' || c == '-';
    };
    return !name.empty() && name.size() <= NAME_LEN_MAX && std::all_of(name.begin(), name.end(), plain);
}

/// A time that exists, as in 2013-12-02 21:15:00.
inline bool is_timestamp(std::string_view text) {
    constexpr std::string_view form = "dddd-dd-dd dd:dd:dd";
    if (text.size() != form.size()) return false;
    for (std::size_t at = 0; at < form.size(); ++at)
        if (form[at] == 'd' ? !is_digit(text[at]) : text[at] != form[at]) return false;
    const auto number = [&](std::size_t at, std::size_t len) {
        int value = 0;
        for (char c : text.substr(at, len)) value = value * 10 + (c - '0');
        return value;
    };
    const int year = number(0, 4), month = number(5, 2), day = number(8, 2);
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const int days[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] && number(11, 2) < 24 &&
           number(14, 2) < 60 && number(17, 2) < 60;
}

inline Reading parse_reading(const isms::Json &json) {
    Reading reading{json.at("machine").string(), json.at("timestamp").string(), json.at("value").number()};
    if (!is_machine(reading.machine))
        throw BadReading("\"machine\" has 1 to 64 letters, digits, dots, underscores and hyphens");
    if (!is_timestamp(reading.timestamp)) throw BadReading("\"timestamp\" is a time such as 2013-12-02 21:15:00");
    if (!(std::abs(reading.value) <= VALUE_MAX)) throw BadReading("\"value\" is a number of at most 1e15");
    return reading;
}

/// One reading, or an array of them.
inline std::vector<Reading> parse_readings(const isms::Json &json) {
    if (!json.is_array()) return {parse_reading(json)};
    if (json.items().size() > READINGS_MAX) throw BadReading("an array has at most 1000 readings");
    std::vector<Reading> readings;
    readings.reserve(json.items().size());
    for (const isms::Json &item : json.items()) {
        try {
            readings.push_back(parse_reading(item));
        } catch (const std::exception &error) {
            throw BadReading("reading " + std::to_string(readings.size()) + ": " + error.what());
        }
    }
    return readings;
}
