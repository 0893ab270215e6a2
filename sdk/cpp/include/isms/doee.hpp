// SPDX-License-Identifier: Apache-2.0
//
// isms/doee.hpp: Doees in C++20, over the ABI of isms_doee.h.
//
//     ISMS_DOEE(Hello) {
//         int calls = 0;                                        // attributes and functions as you like
//         void initialize(isms::Context &context) override {}
//         isms::Response execute(isms::Request &request) override { return isms::Response::text("hello"); }
//         void terminate() override {}
//     };
//
// Exceptions never cross the ABI: each becomes an error with its what(). Views (std::string_view) of a
// request are good until execute returns; of rows, as long as their Rows or Results.
#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <isms_doee.h>
#include "json.hpp"

namespace isms {

/// A host call that failed; code is one of the ISMS_ numbers.
class Error : public std::runtime_error {
  public:
    Error(isms_result code, const std::string &message) : std::runtime_error(message), code(code) {}
    const isms_result code;
};
/// A demanded row count did not hold: nothing was changed; read again and retry.
class ConditionFailed : public Error { using Error::Error; };
/// The caller gave up or the time is over; let it pass through.
class Stopped : public Error { using Error::Error; };

namespace detail {

inline std::string_view view(isms_text text) noexcept { return text.len ? std::string_view(text.data, text.len) : ""; }
inline isms_text text(std::string_view view) noexcept { return {view.data(), view.size()}; }

[[noreturn]] inline void raise(isms_result result, const std::string &message) {
    if (result == ISMS_CONDITION_FAILED) throw ConditionFailed(result, message);
    if (result == ISMS_CANCELLED || result == ISMS_DEADLINE) throw Stopped(result, message);
    throw Error(result, message);
}

inline void check(isms_call *call, isms_result result) {
    if (result != ISMS_OK) raise(result, std::string(view(isms_error(call))));
}

/// Percent-decoding of a query, where + is a blank; what is malformed stays as it is.
inline std::string decode_query(std::string_view text) {
    const auto digit = [](char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '%' && at + 2 < text.size() && digit(text[at + 1]) >= 0 && digit(text[at + 2]) >= 0) {
            out.push_back(static_cast<char>(digit(text[at + 1]) * 16 + digit(text[at + 2])));
            at += 2;
        } else {
            out.push_back(text[at] == '+' ? ' ' : text[at]);
        }
    }
    return out;
}

} // namespace detail

/// Log levels.
enum class Level : std::uint32_t { Debug = ISMS_LOG_DEBUG, Info = ISMS_LOG_INFO, Warn = ISMS_LOG_WARN, Error = ISMS_LOG_ERROR };

/// What a parameter of a statement may be.
class Value {
  public:
    Value(std::nullptr_t = nullptr) noexcept : value_{ISMS_NULL, 0, {0}} {}
    template <class T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
    Value(T value) : value_{ISMS_INTEGER, 0, {static_cast<std::int64_t>(value)}} {
        if (!std::is_same_v<T, bool> && std::is_unsigned_v<T> && static_cast<std::uint64_t>(value) > std::uint64_t(INT64_MAX))
            throw std::out_of_range("a whole number exceeds 63 bits");
    }
    template <class T, std::enable_if_t<std::is_floating_point_v<T>, int> = 0>
    Value(T value) noexcept : value_{ISMS_REAL, 0, {0}} { value_.as.real = static_cast<double>(value); }
    Value(const char *value) : Value(std::string(value)) {}
    Value(std::string_view value) : Value(std::string(value)) {}
    Value(std::string value) : value_{ISMS_TEXT, 0, {0}}, owned_(std::move(value)) {}
    /// Bytes that are no text.
    static Value blob(std::string bytes) {
        Value value(std::move(bytes));
        value.value_.kind = ISMS_BLOB;
        return value;
    }

    /// As the ABI wants it; good while this value lives and is not moved.
    isms_value raw() const noexcept {
        isms_value raw = value_;
        if (raw.kind == ISMS_TEXT || raw.kind == ISMS_BLOB) raw.as.text = detail::text(owned_);
        return raw;
    }

  private:
    isms_value value_;
    std::string owned_;
};

/// One statement of a transaction: `{"update t set a = ? where b = ?", 1, "x"}`.
class Statement {
  public:
    template <class... Parameters>
    Statement(std::string sql, Parameters &&...parameters) : sql(std::move(sql)) {
        this->parameters.reserve(sizeof...(parameters));
        (this->parameters.emplace_back(std::forward<Parameters>(parameters)), ...);
    }
    /// Appends a parameter.
    Statement &add(Value value) { return parameters.push_back(std::move(value)), *this; }
    /// Demands that it returns or changes so many rows; otherwise the transaction is undone.
    Statement &demand(std::uint64_t count) { return rows_demanded = static_cast<std::int64_t>(count), *this; }

    std::string sql;
    std::vector<Value> parameters;
    std::int64_t rows_demanded = ISMS_ROWS_ANY;
};

/// A row of a result; good while its Rows or Results are.
class Row {
  public:
    Row(const isms_value *values, std::size_t columns) : values_(values), columns_(columns) {}

    bool is_null(std::size_t column) const { return at(column).kind == ISMS_NULL; }
    std::int64_t integer(std::size_t column) const { return typed(column, ISMS_INTEGER, "a whole number").as.integer; }
    /// A number with or without a fraction.
    double real(std::size_t column) const {
        const isms_value &value = at(column);
        return value.kind == ISMS_INTEGER ? static_cast<double>(value.as.integer) : typed(column, ISMS_REAL, "a number").as.real;
    }
    std::string_view text(std::size_t column) const { return detail::view(typed(column, ISMS_TEXT, "text").as.text); }
    std::string_view blob(std::size_t column) const { return detail::view(typed(column, ISMS_BLOB, "bytes").as.text); }

  private:
    const isms_value &at(std::size_t column) const {
        if (column >= columns_) throw std::out_of_range("the row has no column " + std::to_string(column));
        return values_[column];
    }
    const isms_value &typed(std::size_t column, std::uint32_t kind, const char *what) const {
        const isms_value &value = at(column);
        if (value.kind == kind) return value;
        throw std::runtime_error("column " + std::to_string(column) + " does not hold " + what);
    }
    const isms_value *values_;
    std::size_t columns_;
};

namespace detail {

/// A host call; lets go of it at the end.
class Handle {
  public:
    Handle(isms_call *call, isms_handle handle) : call(call), handle(handle) {}
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() {
        if (handle != 0) isms_release(call, handle);
    }
    isms_call *const call;
    const isms_handle handle;
};

/// The answer of a host call: a head, and a body that is read in pieces. `Of` says by which functions.
template <typename Of> class Answer {
  public:
    explicit Answer(std::shared_ptr<const Handle> handle) : handle_(std::move(handle)) {
        check(handle_->call, Of::head(handle_->call, handle_->handle, &answer_));
    }
    std::uint32_t status() const noexcept { return answer_->status; }
    /// A header field, by its name in lower case; empty when there is none.
    std::string_view header(std::string_view name) const noexcept {
        for (std::size_t at = 0; at < answer_->header_count; ++at)
            if (view(answer_->headers[at].name) == name) return view(answer_->headers[at].value);
        return "";
    }
    /// Length of the body, when whoever answers said it.
    std::optional<std::uint64_t> body_len() const noexcept {
        if (answer_->body_len == ISMS_LEN_UNKNOWN) return std::nullopt;
        return answer_->body_len;
    }
    /// Reads on in the body; 0 at its end.
    std::size_t read(void *buffer, std::size_t capacity) {
        std::size_t len = 0;
        check(handle_->call, Of::read(handle_->call, handle_->handle, buffer, capacity, &len));
        return len;
    }
    /// What is left of the body, at most len_max bytes.
    std::string body(std::size_t len_max = 4 * 1024 * 1024) {
        std::string body;
        char buffer[32 * 1024];
        while (const std::size_t len = read(buffer, sizeof buffer)) {
            if (body.size() + len > len_max) throw std::length_error("the answer's body is too long");
            body.append(buffer, len);
        }
        return body;
    }
    /// The body as JSON.
    Json json(const JsonLimits &limits = {}) { return Json::parse(body(limits.bytes), limits); }

  protected:
    std::shared_ptr<const Handle> handle_;
    const typename Of::Head *answer_ = nullptr;
};

} // namespace detail

/// What one statement returned. Keeps what its rows point to.
class Rows {
  public:
    Rows(isms_rows rows, std::shared_ptr<const detail::Handle> handle) : rows_(rows), handle_(std::move(handle)) {}
    std::size_t size() const noexcept { return rows_.row_count; }
    bool empty() const noexcept { return size() == 0; }
    std::uint64_t changed() const noexcept { return rows_.rows_changed; }
    std::size_t columns() const noexcept { return rows_.column_count; }
    std::string_view column(std::size_t index) const {
        if (index >= columns()) throw std::out_of_range("there is no column " + std::to_string(index));
        return detail::view(rows_.columns[index]);
    }
    Row operator[](std::size_t row) const {
        if (row >= size()) throw std::out_of_range("there is no row " + std::to_string(row));
        return Row(rows_.values + row * columns(), columns());
    }

  private:
    isms_rows rows_;
    std::shared_ptr<const detail::Handle> handle_;
};

/// What a transaction returned, statement by statement.
class Results {
  public:
    Results(std::shared_ptr<const detail::Handle> handle, std::size_t count) : handle_(std::move(handle)), count_(count) {}
    std::size_t size() const noexcept { return count_; }
    Rows operator[](std::size_t statement) const {
        isms_rows rows;
        detail::check(handle_->call, isms_sql_rows(handle_->call, handle_->handle, statement, &rows));
        return Rows(rows, handle_);
    }

  private:
    std::shared_ptr<const detail::Handle> handle_;
    std::size_t count_;
};

class Request;

/// A database of the project, by name. A value without state: make it in initialize, use it in execute.
class Database {
  public:
    Database() = default;
    explicit Database(std::string name) : name_(std::move(name)) {}

    /// Runs statements that take effect together or not at all. Throws ConditionFailed when a demand
    /// does not hold, Error for all else.
    inline Results transaction(Request &request, const std::vector<Statement> &statements) const;
    /// One statement.
    inline Results query(Request &request, Statement statement) const;

  private:
    std::string name_;
};

/// What initialize works with.
class Context {
  public:
    explicit Context(isms_call *call) : call_(call) {}

    /// A parameter of the manifest, or the value given when it does not name it.
    template <class T> T param(std::string_view name, T otherwise) const {
        const isms_param *found = find(name);
        return found ? convert<T>(*found) : otherwise;
    }
    /// A parameter that the manifest must name: param<std::int64_t>, <double>, <bool>, <std::string>.
    template <class T> T param(std::string_view name) const {
        if (const isms_param *found = find(name)) return convert<T>(*found);
        throw std::invalid_argument("the manifest has no parameter \"" + std::string(name) + "\"");
    }
    std::string param(std::string_view name, const char *otherwise) const { return param(name, std::string(otherwise)); }
    Database database(std::string name) const { return Database(std::move(name)); }
    void log(Level level, std::string_view line) const { isms_log(call_, static_cast<std::uint32_t>(level), detail::text(line)); }

  private:
    const isms_param *find(std::string_view name) const {
        const isms_param *params = nullptr;
        std::size_t count = 0;
        detail::check(call_, isms_params(call_, &params, &count));
        for (std::size_t at = 0; at < count; ++at)
            if (detail::view(params[at].name) == name) return &params[at];
        return nullptr;
    }
    template <class T> static T convert(const isms_param &param) {
        const isms_value &value = param.value;
        if constexpr (std::is_same_v<T, bool>) {
            if (value.kind == ISMS_BOOLEAN) return value.as.integer != 0;
        } else if constexpr (std::is_integral_v<T>) {
            if (value.kind == ISMS_INTEGER && std::in_range<T>(value.as.integer)) return static_cast<T>(value.as.integer);
        } else if constexpr (std::is_floating_point_v<T>) {
            if (value.kind == ISMS_REAL) return static_cast<T>(value.as.real);
            if (value.kind == ISMS_INTEGER) return static_cast<T>(value.as.integer);
        } else {
            static_assert(std::is_same_v<T, std::string>, "a parameter is a number, a bool or a std::string");
            if (value.kind == ISMS_TEXT) return std::string(detail::view(value.as.text));
        }
        throw std::invalid_argument("the parameter \"" + std::string(detail::view(param.name)) + "\" is of another type");
    }
    isms_call *call_;
};

/// The body of a request is not JSON. Not caught, it is answered with 400 and its what(): the mistake is the caller's.
class BodyError : public JsonError { using JsonError::JsonError; };

/// What triggered an execute.
class Request {
  public:
    explicit Request(isms_call *call) : call_(call) { detail::check(call, isms_request_get(call, &request_)); }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    bool is_http() const noexcept { return request_->trigger == ISMS_TRIGGER_HTTP; }
    std::string_view method() const noexcept { return detail::view(request_->method); }
    std::string_view path() const noexcept { return detail::view(request_->path); }
    std::string_view route() const noexcept { return detail::view(request_->route); }
    std::string_view query() const noexcept { return detail::view(request_->query); }
    std::string_view principal() const noexcept { return detail::view(request_->principal); }
    std::string_view invocation_id() const noexcept { return detail::view(request_->invocation_id); }
    std::string_view trace() const noexcept { return detail::view(request_->trace); }
    std::uint32_t attempt() const noexcept { return request_->attempt; }
    /// On CLOCK_MONOTONIC in µs; 0 for none.
    std::uint64_t deadline_us() const noexcept { return request_->deadline_us; }

    /// A parameter of the route's pattern, such as id in /machines/{id}; empty when there is none.
    std::string_view parameter(std::string_view name) const noexcept { return find(request_->parameters, request_->parameter_count, name); }
    /// A header field, by its name in lower case; empty when there is none.
    std::string_view header(std::string_view name) const noexcept { return find(request_->headers, request_->header_count, name); }
    /// A parameter of the query, decoded.
    std::optional<std::string> query_parameter(std::string_view name) const {
        for (std::string_view rest = query(); !rest.empty();) {
            const std::size_t end = rest.find('&');
            const std::string_view pair = rest.substr(0, end);
            const std::size_t equals = pair.find('=');
            if (detail::decode_query(pair.substr(0, equals)) == name)
                return equals == std::string_view::npos ? "" : detail::decode_query(pair.substr(equals + 1));
            rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
        }
        return std::nullopt;
    }

    /// Length of the body, when the sender said it.
    std::optional<std::uint64_t> body_len() const noexcept {
        if (request_->body_len == ISMS_LEN_UNKNOWN) return std::nullopt;
        return request_->body_len;
    }
    /// Reads on in the body; 0 at its end.
    std::size_t read(void *buffer, std::size_t capacity) {
        std::size_t len = 0;
        detail::check(call_, isms_body_read(call_, buffer, capacity, &len));
        return len;
    }
    /// The whole body, at most len_max bytes. Copies only what came in pieces.
    std::string_view body(std::size_t len_max = 4 * 1024 * 1024) {
        isms_text whole;
        if (isms_body(call_, &whole) == ISMS_OK) {
            if (whole.len > len_max) throw std::length_error("the body is too long");
            return detail::view(whole);
        }
        while (!collected_) {
            char buffer[32 * 1024];
            const std::size_t len = read(buffer, sizeof buffer);
            if (len == 0) collected_ = true;
            if (body_.size() + len > len_max) throw std::length_error("the body is too long");
            body_.append(buffer, len);
        }
        return body_;
    }
    /// The body as JSON; throws BodyError when it is none.
    Json json(const JsonLimits &limits = {}) {
        const std::string_view text = body(limits.bytes);
        try {
            return Json::parse(text, limits);
        } catch (const JsonError &error) {
            throw BodyError(error.what());
        }
    }

    /// Throws Stopped when the caller has given up or the time is over; for long computations.
    void check() const { detail::check(call_, isms_check(call_)); }
    void log(Level level, std::string_view line) const { isms_log(call_, static_cast<std::uint32_t>(level), detail::text(line)); }
    /// The call of the C interface.
    isms_call *raw() const noexcept { return call_; }

  private:
    static std::string_view find(const isms_pair *pairs, std::size_t count, std::string_view name) noexcept {
        for (std::size_t at = 0; at < count; ++at)
            if (detail::view(pairs[at].name) == name) return detail::view(pairs[at].value);
        return "";
    }
    isms_call *call_;
    const isms_request *request_ = nullptr;
    std::string body_;
    bool collected_ = false;
};

inline Results Database::transaction(Request &request, const std::vector<Statement> &statements) const {
    std::vector<std::vector<isms_value>> parameters;
    std::vector<isms_statement> raw;
    parameters.reserve(statements.size());
    raw.reserve(statements.size());
    for (const Statement &statement : statements) {
        std::vector<isms_value> &values = parameters.emplace_back();
        values.reserve(statement.parameters.size());
        for (const Value &value : statement.parameters) values.push_back(value.raw());
        raw.push_back({detail::text(statement.sql), values.data(), values.size(), statement.rows_demanded});
    }
    isms_handle handle = 0;
    const isms_result result = isms_sql(request.raw(), detail::text(name_), raw.data(), raw.size(), &handle);
    // The text goes with the next host call, so it is taken before the handle is let go.
    const std::string message(result == ISMS_OK ? "" : detail::view(isms_error(request.raw())));
    auto held = std::make_shared<const detail::Handle>(request.raw(), handle);
    if (result != ISMS_OK) detail::raise(result, message);
    return Results(std::move(held), statements.size());
}

inline Results Database::query(Request &request, Statement statement) const {
    return transaction(request, {std::move(statement)});
}

/// Where a streamed answer is written to.
class Writer {
  public:
    explicit Writer(isms_call *call) : call_(call) {}
    /// Copies; waits while the reader is slow.
    void write(const void *data, std::size_t len) { detail::check(call_, isms_respond_write(call_, data, len)); }
    void write(std::string_view data) { write(data.data(), data.size()); }

  private:
    isms_call *call_;
};

/// The answer of an execute. An empty one ("returns nothing") is an error.
class Response {
  public:
    Response() = default;
    explicit Response(std::uint32_t status, std::string body = {}, std::string_view content_type = {})
        : status_(status), body_(std::move(body)) {
        if (!content_type.empty()) header("content-type", content_type);
    }
    static Response json(const Json &value, std::uint32_t status = 200) { return Response(status, value.dump(), "application/json"); }
    static Response text(std::string body, std::uint32_t status = 200) { return Response(status, std::move(body), "text/plain; charset=utf-8"); }
    /// An error as {"error": message}.
    static Response error(std::uint32_t status, std::string_view message) { return json(Json::object({{"error", message}}), status); }
    /// A body that is written piece by piece, after execute has returned and while its request lives.
    static Response stream(std::uint32_t status, std::string_view content_type, std::function<void(Writer &)> body) {
        Response response(status, {}, content_type);
        response.stream_ = std::move(body);
        return response;
    }
    /// Adds a header field.
    Response &header(std::string_view name, std::string_view value) { return headers_.emplace_back(name, value), *this; }

    /// Sends it; what the trampoline does with what execute returned.
    void send(isms_call *call) const {
        if (status_ == 0) throw std::runtime_error("execute returned an empty response");
        std::vector<isms_pair> pairs;
        for (const auto &[name, value] : headers_) pairs.push_back({detail::text(name), detail::text(value)});
        const std::uint64_t len = stream_ ? ISMS_LEN_UNKNOWN : body_.size();
        detail::check(call, isms_respond_begin(call, status_, pairs.data(), pairs.size(), len));
        Writer writer(call);
        if (stream_) stream_(writer);
        else if (!body_.empty()) writer.write(body_);
    }

  private:
    std::uint32_t status_ = 0;
    std::vector<std::pair<std::string, std::string>> headers_;
    std::string body_;
    std::function<void(Writer &)> stream_;
};

/// The interface of all Doees (ISMS_DOEE adds the inheritance).
class Doee {
  public:
    virtual ~Doee() = default;
    /// Once per worker, before the first execute. A worker whose initialize throws does not start.
    virtual void initialize(Context &context) = 0;
    /// Once per trigger.
    virtual Response execute(Request &request) = 0;
    /// Once per worker, after the last execute.
    virtual void terminate() = 0;
};

namespace detail {

/// Runs a function of the Doee; whatever it throws becomes a result and its message.
template <class Function> isms_result guarded(isms_call *call, Function &&function) noexcept {
    try {
        function();
        return ISMS_OK;
    } catch (const Error &error) {
        isms_fail(call, text(error.what()));
        return error.code;
    } catch (const std::exception &error) {
        isms_fail(call, text(error.what()));
    } catch (...) {
        isms_fail(call, text("something was thrown that is no std::exception"));
    }
    return ISMS_FAILED;
}

/// The ABI's table for a class.
template <class Custom> const isms_doee_table *table() noexcept {
    static const isms_doee_table table = {
        sizeof(isms_doee_table), ISMS_DOEE_ABI, 0,
        [](isms_call *call) noexcept -> void * {
            Doee *doee = nullptr;
            guarded(call, [&] { doee = new Custom(); });
            return doee;
        },
        [](void *doee) noexcept { delete static_cast<Doee *>(doee); },
        [](void *doee, isms_call *call) noexcept -> isms_result {
            return guarded(call, [&] {
                Context context(call);
                static_cast<Doee *>(doee)->initialize(context);
            });
        },
        [](void *doee, isms_call *call) noexcept -> isms_result {
            return guarded(call, [&] {
                Request request(call);
                Response response;
                try {
                    response = static_cast<Doee *>(doee)->execute(request);
                } catch (const BodyError &error) {
                    response = Response::error(400, error.what());
                }
                response.send(call);
            });
        },
        [](void *doee, isms_call *call) noexcept {
            const isms_result result = guarded(call, [&] { static_cast<Doee *>(doee)->terminate(); });
            if (result != ISMS_OK) isms_log(call, ISMS_LOG_ERROR, text("terminate threw an exception"));
        },
    };
    return &table;
}

} // namespace detail
} // namespace isms

/// Declares a Doee: adds the inheritance and exports it. Once per Doee, outside of unnamed namespaces;
/// the body follows in braces.
#define ISMS_DOEE(Name)                                                                                  \
    struct Name;                                                                                         \
    extern "C" ISMS_DOEE_EXPORT const isms_doee_table *isms_doee_v1(void) {                              \
        return ::isms::detail::table<Name>();                                                            \
    }                                                                                                    \
    struct Name final : public ::isms::Doee
