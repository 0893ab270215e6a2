// SPDX-License-Identifier: Apache-2.0
//
// isms/json.hpp: JSON (RFC 8259) for Doees. Small, header-only, bounded.
//
// Parsing is strict: one value, valid UTF-8, no duplicate names, within the limits given, whole numbers
// that fit 64 bits stay whole, others become doubles, one that fits neither is an error. Writing is
// exact: doubles in the shortest form that reads back the same, invalid UTF-8 as U+FFFD, a number that
// JSON cannot express (NaN, infinity) as null. An object keeps its order.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace isms {

/// Text that is not JSON, or a value that is not what was asked for.
class JsonError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// What Json::parse accepts.
struct JsonLimits {
    std::size_t bytes = 4 * 1024 * 1024;
    std::size_t depth = 64;
    std::size_t values = 1'000'000;
};

/// A JSON value.
class Json {
  public:
    using Array = std::vector<Json>;
    using Member = std::pair<std::string, Json>;
    using Object = std::vector<Member>;

    Json() noexcept : value_(nullptr) {}
    Json(std::nullptr_t) noexcept : value_(nullptr) {}
    template <class T, std::enable_if_t<std::is_same_v<T, bool>, int> = 0>
    Json(T value) noexcept : value_(value) {}
    template <class T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>, int> = 0>
    Json(T value) {
        if (std::is_unsigned_v<T> && static_cast<std::uint64_t>(value) > std::uint64_t(INT64_MAX))
            throw JsonError("a whole number exceeds 63 bits");
        value_ = static_cast<std::int64_t>(value);
    }
    template <class T, std::enable_if_t<std::is_floating_point_v<T>, int> = 0>
    Json(T value) noexcept : value_(static_cast<double>(value)) {}
    Json(const char *value) : value_(std::string(value)) {}
    Json(std::string_view value) : value_(std::string(value)) {}
    Json(std::string value) noexcept : value_(std::move(value)) {}
    Json(Array value) noexcept : value_(std::move(value)) {}
    Json(Object value) noexcept : value_(std::move(value)) {}

    /// `Json::object({{"stored", 1}, {"anomalies", 0}})`
    static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }
    /// `Json::array({1, "two"})`
    static Json array(std::initializer_list<Json> items = {}) { return Json(Array(items)); }

    bool is_null() const noexcept { return holds<std::nullptr_t>(); }
    bool is_boolean() const noexcept { return holds<bool>(); }
    bool is_integer() const noexcept { return holds<std::int64_t>(); }
    bool is_number() const noexcept { return is_integer() || holds<double>(); }
    bool is_string() const noexcept { return holds<std::string>(); }
    bool is_array() const noexcept { return holds<Array>(); }
    bool is_object() const noexcept { return holds<Object>(); }

    bool boolean() const { return get<bool>("a boolean"); }
    std::int64_t integer() const { return get<std::int64_t>("a whole number"); }
    double number() const {
        return is_integer() ? static_cast<double>(std::get<std::int64_t>(value_)) : get<double>("a number");
    }
    const std::string &string() const { return get<std::string>("a string"); }
    const Array &items() const { return get<Array>("an array"); }
    const Object &members() const { return get<Object>("an object"); }

    /// The member of an object with this name, or nullptr.
    const Json *find(std::string_view name) const {
        for (const Member &member : members())
            if (member.first == name) return &member.second;
        return nullptr;
    }
    /// As find, but a missing member is an error.
    const Json &at(std::string_view name) const {
        if (const Json *found = find(name)) return *found;
        throw JsonError("\"" + std::string(name) + "\" is missing");
    }
    /// Sets a member of an object; null becomes an object.
    Json &set(std::string name, Json value) {
        if (is_null()) value_ = Object();
        Object &object = mutate<Object>("an object");
        for (Member &member : object)
            if (member.first == name) return member.second = std::move(value), *this;
        object.emplace_back(std::move(name), std::move(value));
        return *this;
    }
    /// Appends to an array; null becomes an array.
    Json &push(Json value) {
        if (is_null()) value_ = Array();
        mutate<Array>("an array").push_back(std::move(value));
        return *this;
    }

    friend bool operator==(const Json &left, const Json &right) { return left.value_ == right.value_; }

    /// Reads text; throws JsonError with the position of what is wrong.
    static Json parse(std::string_view text, const JsonLimits &limits = {});

    /// Writes the value without blanks.
    std::string dump() const {
        std::string out;
        write(out);
        return out;
    }

  private:
    template <class T> bool holds() const noexcept { return std::holds_alternative<T>(value_); }
    template <class T> const T &get(const char *what) const {
        if (const T *found = std::get_if<T>(&value_)) return *found;
        throw JsonError(std::string("expected ") + what);
    }
    template <class T> T &mutate(const char *what) {
        if (T *found = std::get_if<T>(&value_)) return *found;
        throw JsonError(std::string("expected ") + what);
    }
    inline void write(std::string &out) const;

    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> value_;
};

namespace detail {

/// The length of the valid UTF-8 sequence at `at`, 0 when there is none (RFC 3629).
inline std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept {
    const auto byte = [&](std::size_t offset) -> unsigned {
        return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0u;
    };
    const auto tail = [&](std::size_t offset) { return (byte(offset) & 0xC0u) == 0x80u; };
    const unsigned first = byte(0);
    if (first < 0x80u) return 1;
    if (first >= 0xC2u && first <= 0xDFu) return tail(1) ? 2 : 0;
    if (first >= 0xE0u && first <= 0xEFu) {
        const unsigned second = byte(1);
        const bool overlong = first == 0xE0u && second < 0xA0u;
        const bool surrogate = first == 0xEDu && second > 0x9Fu;
        return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
    }
    if (first >= 0xF0u && first <= 0xF4u) {
        const unsigned second = byte(1);
        const bool overlong = first == 0xF0u && second < 0x90u;
        const bool beyond = first == 0xF4u && second > 0x8Fu;
        return tail(1) && tail(2) && tail(3) && !overlong && !beyond ? 4 : 0;
    }
    return 0;
}

inline void append_utf8(std::string &out, std::uint32_t code) {
    const auto put = [&](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | (code >> 6)), put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | (code >> 12)), put(0x80 | ((code >> 6) & 0x3F)), put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | (code >> 18)), put(0x80 | ((code >> 12) & 0x3F));
        put(0x80 | ((code >> 6) & 0x3F)), put(0x80 | (code & 0x3F));
    }
}

inline void write_string(std::string &out, std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    out.push_back('"');
    for (std::size_t at = 0; at < text.size();) {
        const unsigned char byte = static_cast<unsigned char>(text[at]);
        if (byte == '"' || byte == '\\') {
            out.push_back('\\'), out.push_back(static_cast<char>(byte)), ++at;
        } else if (byte < 0x20) {
            switch (byte) {
            case '\b': out += "\\b"; break;
            case '\f': out += "\\f"; break;
            case '\n': out += "\\n"; break;
            case '\r': out += "\\r"; break;
            case '\t': out += "\\t"; break;
            default: out += "\\u00", out.push_back(hex[byte >> 4]), out.push_back(hex[byte & 15]);
            }
            ++at;
        } else if (const std::size_t len = utf8_sequence(text, at)) {
            out.append(text.substr(at, len)), at += len;
        } else {
            out += "\xEF\xBF\xBD", ++at;
        }
    }
    out.push_back('"');
}

inline void write_double(std::string &out, double value) {
    if (!std::isfinite(value)) {
        out += "null";
        return;
    }
    char buffer[32];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
    const std::string_view digits(buffer, static_cast<std::size_t>(end - buffer));
    out += digits;
    // Without a point or an exponent it would read back as a whole number.
    if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";
}

class JsonParser {
  public:
    JsonParser(std::string_view text, const JsonLimits &limits) : text_(text), limits_(limits) {}

    Json document() {
        if (text_.size() > limits_.bytes) fail("the text is too long");
        Json value = this->value(0);
        skip_blanks();
        if (at_ != text_.size()) fail("something follows the value");
        return value;
    }

  private:
    [[noreturn]] void fail(const char *why) const {
        throw JsonError("invalid JSON at byte " + std::to_string(at_) + ": " + why);
    }
    bool at_end() const noexcept { return at_ >= text_.size(); }
    char peek() const noexcept { return at_end() ? '\0' : text_[at_]; }
    void skip_blanks() noexcept {
        while (!at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) ++at_;
    }
    bool take(char wanted) noexcept {
        if (at_end() || peek() != wanted) return false;
        ++at_;
        return true;
    }

    Json value(std::size_t depth) {
        if (depth > limits_.depth) fail("it is nested too deeply");
        if (++values_ > limits_.values) fail("there are too many values");
        skip_blanks();
        if (at_end()) fail("a value is missing");
        switch (peek()) {
        case '{': return object(depth);
        case '[': return array(depth);
        case '"': return Json(string());
        case 't': return word("true", Json(true));
        case 'f': return word("false", Json(false));
        case 'n': return word("null", Json());
        default: return number();
        }
    }

    Json word(std::string_view word, Json value) {
        if (text_.substr(at_, word.size()) != word) fail("this is no value");
        at_ += word.size();
        return value;
    }

    Json array(std::size_t depth) {
        Json::Array items;
        ++at_;
        skip_blanks();
        if (take(']')) return Json(std::move(items));
        for (;;) {
            items.push_back(value(depth + 1));
            skip_blanks();
            if (take(']')) return Json(std::move(items));
            if (!take(',')) fail("expected , or ]");
        }
    }

    Json object(std::size_t depth) {
        Json::Object members;
        ++at_;
        skip_blanks();
        if (take('}')) return Json(std::move(members));
        for (;;) {
            skip_blanks();
            if (peek() != '"') fail("expected a name");
            std::string name = string();
            skip_blanks();
            if (!take(':')) fail("expected :");
            Json member = value(depth + 1);
            members.emplace_back(std::move(name), std::move(member));
            skip_blanks();
            if (take('}')) break;
            if (!take(',')) fail("expected , or }");
        }
        check_names(members);
        return Json(std::move(members));
    }

    void check_names(const Json::Object &members) const {
        std::vector<std::string_view> names;
        names.reserve(members.size());
        for (const auto &member : members) names.push_back(member.first);
        std::sort(names.begin(), names.end());
        if (std::adjacent_find(names.begin(), names.end()) != names.end()) fail("an object has a name twice");
    }

    std::string string() {
        std::string out;
        ++at_;
        for (;;) {
            if (at_end()) fail("a string does not end");
            const unsigned char byte = static_cast<unsigned char>(peek());
            if (byte == '"') return ++at_, out;
            if (byte < 0x20) fail("a string has a control character");
            if (byte == '\\') {
                escape(out);
                continue;
            }
            const std::size_t len = utf8_sequence(text_, at_);
            if (len == 0) fail("a string is not UTF-8");
            out.append(text_.substr(at_, len));
            at_ += len;
        }
    }

    void escape(std::string &out) {
        ++at_;
        const char kind = peek();
        if (at_end()) fail("a string does not end");
        ++at_;
        switch (kind) {
        case '"': case '\\': case '/': out.push_back(kind); return;
        case 'b': out.push_back('\b'); return;
        case 'f': out.push_back('\f'); return;
        case 'n': out.push_back('\n'); return;
        case 'r': out.push_back('\r'); return;
        case 't': out.push_back('\t'); return;
        case 'u': append_utf8(out, code_point()); return;
        default: fail("an escape is unknown");
        }
    }

    std::uint32_t code_point() {
        const std::uint32_t first = four_digits();
        if (first >= 0xDC00 && first <= 0xDFFF) fail("a surrogate stands alone");
        if (first < 0xD800 || first > 0xDBFF) return first;
        if (!take('\\') || !take('u')) fail("a surrogate stands alone");
        const std::uint32_t second = four_digits();
        if (second < 0xDC00 || second > 0xDFFF) fail("a surrogate stands alone");
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    std::uint32_t four_digits() {
        std::uint32_t code = 0;
        for (int digit = 0; digit < 4; ++digit, ++at_) {
            const char c = peek();
            if (c >= '0' && c <= '9') code = code * 16 + std::uint32_t(c - '0');
            else if (c >= 'a' && c <= 'f') code = code * 16 + std::uint32_t(c - 'a' + 10);
            else if (c >= 'A' && c <= 'F') code = code * 16 + std::uint32_t(c - 'A' + 10);
            else fail("an escape has four hexadecimal digits");
        }
        return code;
    }

    bool take_digits() noexcept {
        const std::size_t start = at_;
        while (peek() >= '0' && peek() <= '9') ++at_;
        return at_ > start;
    }

    Json number() {
        const std::size_t start = at_;
        take('-');
        const bool zero = peek() == '0';
        const std::size_t digits = at_;
        if (!take_digits()) fail("this is no value");
        if (zero && at_ - digits > 1) fail("a number starts with 0");
        bool whole = true;
        if (take('.')) {
            whole = false;
            if (!take_digits()) fail("a fraction has no digits");
        }
        if (peek() == 'e' || peek() == 'E') {
            ++at_, whole = false;
            if (!take('+')) take('-');
            if (!take_digits()) fail("an exponent has no digits");
        }
        return convert(text_.substr(start, at_ - start), whole);
    }

    Json convert(std::string_view digits, bool whole) const {
        const char *first = digits.data(), *last = first + digits.size();
        std::int64_t integer = 0;
        // -0 is a double: a whole number would lose its sign.
        if (whole && digits != "-0" && std::from_chars(first, last, integer).ec == std::errc()) return Json(integer);
        double real = 0;
        const auto [end, error] = std::from_chars(first, last, real);
        if (error == std::errc::result_out_of_range) {
            // Too small is zero or the next thing to it, too large is an error.
            real = std::strtod(std::string(digits).c_str(), nullptr);
            if (std::isinf(real)) fail("a number is too large");
        } else if (error != std::errc() || end != last) {
            fail("this is no number");
        }
        return Json(real);
    }

    std::string_view text_;
    const JsonLimits &limits_;
    std::size_t at_ = 0;
    std::size_t values_ = 0;
};

} // namespace detail

inline Json Json::parse(std::string_view text, const JsonLimits &limits) {
    return detail::JsonParser(text, limits).document();
}

inline void Json::write(std::string &out) const {
    if (is_null()) {
        out += "null";
    } else if (is_boolean()) {
        out += boolean() ? "true" : "false";
    } else if (is_integer()) {
        out += std::to_string(integer());
    } else if (const double *real = std::get_if<double>(&value_)) {
        detail::write_double(out, *real);
    } else if (is_string()) {
        detail::write_string(out, string());
    } else if (is_array()) {
        out.push_back('[');
        for (const Json &item : items()) {
            if (&item != &items().front()) out.push_back(',');
            item.write(out);
        }
        out.push_back(']');
    } else {
        out.push_back('{');
        for (const Member &member : members()) {
            if (&member != &members().front()) out.push_back(',');
            detail::write_string(out, member.first);
            out.push_back(':');
            member.second.write(out);
        }
        out.push_back('}');
    }
}

} // namespace isms
