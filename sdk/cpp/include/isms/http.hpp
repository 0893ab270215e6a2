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

namespace detail {

struct Http {
    using Head = isms_http_answer;
    static isms_result head(isms_call *call, isms_handle handle, const Head **answer) {
        return isms_http_answer_get(call, handle, answer);
    }
    static isms_result read(isms_call *call, isms_handle handle, void *buffer, std::size_t capacity, std::size_t *len) {
        return isms_http_read(call, handle, buffer, capacity, len);
    }
};

} // namespace detail

/// What a server answered. Views of it are good while it lives.
class HttpAnswer : public detail::Answer<detail::Http> {
  public:
    using Answer::Answer;
    /// The URL that answered: the last one of the redirects that were followed.
    std::string_view url() const noexcept { return detail::view(answer_->url); }
};

/// Sends a request and waits for the head of its answer.
inline HttpAnswer fetch(const Request &request, const HttpRequest &http) {
    auto handle = std::make_shared<const detail::Handle>(request.raw(), http.start(request.raw()));
    std::size_t ready = 0;
    detail::check(request.raw(), isms_wait(request.raw(), &handle->handle, 1, -1, &ready));
    return HttpAnswer(std::move(handle));
}

} // namespace isms
