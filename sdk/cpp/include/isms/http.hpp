// SPDX-License-Identifier: Apache-2.0
//
// isms/http.hpp: HTTP requests of a Doee to servers outside, over isms_doee_http.h.
//
//     isms::HttpAnswer answer = isms::fetch(request, isms::HttpRequest("GET", "https://api.example.com/v1"));
//     if (answer.status() == 200) use(answer.json());
//
// The manifest's allow.http must name "api.example.com:443". What is not reached throws isms::Error; a status
// such as 404 is an answer.
#pragma once

#include <isms_doee_http.h>
#include "doee.hpp"

namespace isms {

/// A request to a server outside.
class HttpRequest {
  public:
    HttpRequest(std::string method, std::string url) : method_(std::move(method)), url_(std::move(url)) {}
    /// Adds a header field; host, content-length and others of the connection are the platform's.
    HttpRequest &header(std::string name, std::string value) {
        return headers_.emplace_back(std::move(name), std::move(value)), *this;
    }
    /// Sets the body, of at most 16 MiB.
    HttpRequest &body(std::string bytes, std::string content_type = {}) {
        body_ = std::move(bytes);
        return content_type.empty() ? *this : header("content-type", std::move(content_type));
    }
    /// Sets the body to JSON.
    HttpRequest &json(const Json &value) { return body(value.dump(), "application/json"); }
    /// Sets the time until the whole answer must be there; without it, as long as the call has.
    HttpRequest &timeout_ms(std::uint32_t timeout) { return timeout_ms_ = timeout, *this; }
    /// Follows so many redirects, 5 at most. Each must lead to a server that the manifest names.
    HttpRequest &redirects(std::uint32_t count) { return redirects_max_ = count, *this; }

    /// Starts it; the handle is for isms_wait and isms_release.
    isms_handle start(isms_call *call) const {
        std::vector<isms_pair> pairs;
        pairs.reserve(headers_.size());
        for (const auto &[name, value] : headers_) pairs.push_back({detail::text(name), detail::text(value)});
        const isms_http_request raw = {sizeof(isms_http_request), detail::text(method_), detail::text(url_), pairs.data(),
                                       pairs.size(), detail::text(body_), timeout_ms_, redirects_max_};
        isms_handle handle = 0;
        detail::check(call, isms_http_start(call, &raw, &handle));
        return handle;
    }

  private:
    std::string method_, url_, body_;
    std::vector<std::pair<std::string, std::string>> headers_;
    std::uint32_t timeout_ms_ = 0, redirects_max_ = 0;
};

/// What a server answered. Views of it are good while it lives.
class HttpAnswer {
  public:
    explicit HttpAnswer(std::shared_ptr<const detail::Handle> handle) : handle_(std::move(handle)) {
        detail::check(handle_->call, isms_http_answer_get(handle_->call, handle_->handle, &answer_));
    }
    std::uint32_t status() const noexcept { return answer_->status; }
    /// The URL that answered: the last one of the redirects that were followed.
    std::string_view url() const noexcept { return detail::view(answer_->url); }
    /// A header field, by its name in lower case; empty when there is none.
    std::string_view header(std::string_view name) const noexcept {
        for (std::size_t at = 0; at < answer_->header_count; ++at)
            if (detail::view(answer_->headers[at].name) == name) return detail::view(answer_->headers[at].value);
        return "";
    }
    /// Length of the body, when the server said it.
    std::optional<std::uint64_t> body_len() const noexcept {
        if (answer_->body_len == ISMS_LEN_UNKNOWN) return std::nullopt;
        return answer_->body_len;
    }
    /// Reads on in the body; 0 at its end.
    std::size_t read(void *buffer, std::size_t capacity) {
        std::size_t len = 0;
        detail::check(handle_->call, isms_http_read(handle_->call, handle_->handle, buffer, capacity, &len));
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

  private:
    std::shared_ptr<const detail::Handle> handle_;
    const isms_http_answer *answer_ = nullptr;
};

/// Sends a request and waits for the head of its answer.
inline HttpAnswer fetch(const Request &request, const HttpRequest &http) {
    auto handle = std::make_shared<const detail::Handle>(request.raw(), http.start(request.raw()));
    std::size_t ready = 0;
    detail::check(request.raw(), isms_wait(request.raw(), &handle->handle, 1, -1, &ready));
    return HttpAnswer(std::move(handle));
}

} // namespace isms
