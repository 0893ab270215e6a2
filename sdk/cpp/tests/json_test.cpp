// SPDX-License-Identifier: Apache-2.0
//
// Unit tests of isms/json.hpp: exits with 0, or says on stderr what is wrong.
#include <isms/json.hpp>

#include <cstdio>
#include <cstring>
#include <limits>
#include <random>

using isms::Json;
using isms::JsonError;

static int failures = 0;

#define CHECK(condition)                                                                    \
    do {                                                                                    \
        if (!(condition)) std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition), ++failures; \
    } while (0)

static bool refused(std::string_view text, const isms::JsonLimits &limits = {}) {
    try {
        Json::parse(text, limits);
        std::fprintf(stderr, "accepted: %.*s\n", int(text.size()), text.data());
        return false;
    } catch (const JsonError &) {
        return true;
    }
}

static std::string again(std::string_view text) { return Json::parse(text).dump(); }

static void values() {
    CHECK(again(" null ") == "null");
    CHECK(again("[true,false,null]") == "[true,false,null]");
    CHECK(again("{}") == "{}");
    CHECK(again("[ ]") == "[]");
    CHECK(again("{ \"b\" : 1 , \"a\" : [ { } ] }") == "{\"b\":1,\"a\":[{}]}");
    CHECK(Json::parse("{\"a\":{\"b\":7}}").at("a").at("b").integer() == 7);
    CHECK(Json::parse("{\"a\":1}").find("b") == nullptr);
    CHECK(Json::parse("[1,2]") == Json::array({1, 2}));
    CHECK(Json().set("x", 1).set("x", "y").dump() == "{\"x\":\"y\"}");
    CHECK(Json().push(1).push(Json::object({{"k", 2.5}})).dump() == "[1,{\"k\":2.5}]");
    CHECK(Json(true).is_boolean() && Json(1).is_integer() && Json(1.0).is_number() && !Json(1.0).is_integer());
    CHECK(Json("text").is_string() && Json(std::string_view("v")).is_string());
}

static void numbers() {
    CHECK(again("0") == "0");
    CHECK(again("-0") == "-0.0");
    CHECK(again("-12") == "-12");
    CHECK(again("9223372036854775807") == "9223372036854775807");
    CHECK(again("-9223372036854775808") == "-9223372036854775808");
    CHECK(!Json::parse("9223372036854775808").is_integer());
    CHECK(again("1.0") == "1.0");
    CHECK(again("73.96732207") == "73.96732207");
    CHECK(again("74.93588199999998") == "74.93588199999998");
    CHECK(again("1e3") == "1000.0");
    CHECK(again("1E+300") == "1e+300");
    CHECK(again("0.1") == "0.1");
    CHECK(again("1e-400") == "0.0");
    CHECK(Json::parse("5e-324").number() == 5e-324);
    CHECK(Json::parse("3").number() == 3.0);
    CHECK(Json(std::numeric_limits<double>::quiet_NaN()).dump() == "null");
    CHECK(Json(std::numeric_limits<double>::infinity()).dump() == "null");
    for (const char *text : {"01", "-", "+1", "1.", ".5", "1e", "1e+", "0x1", "NaN", "Infinity", "1e999", "-1e999", "1 2", "--1", "00"})
        CHECK(refused(text));
    std::mt19937_64 random(7);
    for (int round = 0; round < 100'000; ++round) {
        const std::uint64_t bits = random();
        double value;
        std::memcpy(&value, &bits, sizeof value);
        if (std::isfinite(value)) CHECK(Json::parse(Json(value).dump()).number() == value);
    }
}

static void strings() {
    CHECK(again("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"") == "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    CHECK(Json::parse("\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"").string() == "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    CHECK(again("\"\\u0000\\u001f\"") == "\"\\u0000\\u001f\"");
    CHECK(again("\"\x7f\"") == "\"\x7f\"");
    CHECK(Json(std::string("a\xff" "b\xC3")).dump() == "\"a\xEF\xBF\xBD" "b\xEF\xBF\xBD\"");
    for (const char *text : {"\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"",
                             "\"\\udc00\"", "\"\\ud800x\"", "\"\n\"", "\"\x01\"", "\"\xff\"", "\"\xC0\x80\"", "\"\xE0\x80\x80\"",
                             "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xF5\x80\x80\x80\"", "\"\xC3\"", "'a'"})
        CHECK(refused(text));
}

static void structure() {
    for (const char *text : {"", " ", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{", "}", "{\"a\"", "{\"a\":", "{\"a\":1",
                             "{\"a\":1,}", "{a:1}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{1:2}", "nul", "nulll", "tru", "True",
                             "[1]]", "{}{}", "\xEF\xBB\xBF{}", "/**/1", "{\"a\":1,\"a\":2}", "[1]\x0b"})
        CHECK(refused(text));
    CHECK(refused(std::string_view("1\0", 2)));
    try {
        Json::parse("{\"a\": [1, x]}");
    } catch (const JsonError &error) {
        CHECK(std::string(error.what()) == "invalid JSON at byte 10: this is no value");
    }
}

static void limits() {
    const std::string deep(64, '['), deeper(65, '[');
    CHECK(Json::parse(deep + std::string(64, ']')).is_array());
    CHECK(refused(deeper + "1" + std::string(65, ']')));
    CHECK(refused(std::string(1'000'000, '[')));
    isms::JsonLimits few;
    few.values = 3;
    CHECK(Json::parse("[1,2]", few).items().size() == 2);
    CHECK(refused("[1,2,3]", few));
    isms::JsonLimits narrow;
    narrow.bytes = 5;
    CHECK(refused("[1,2,3]", narrow));
}

static void types() {
    const Json value = Json::parse("{\"a\":1}");
    const auto throws = [](auto &&function) {
        try {
            function();
            return false;
        } catch (const JsonError &) {
            return true;
        }
    };
    CHECK(throws([&] { value.at("b"); }));
    CHECK(throws([&] { value.integer(); }));
    CHECK(throws([&] { value.items(); }));
    CHECK(throws([&] { value.at("a").string(); }));
    CHECK(throws([&] { Json(1.5).integer(); }));
    CHECK(throws([&] { Json(UINT64_MAX); }));
    CHECK(throws([&] { Json(1).set("a", 1); }));
}

int main() {
    values(), numbers(), strings(), structure(), limits(), types();
    return failures == 0 ? 0 : 1;
}
