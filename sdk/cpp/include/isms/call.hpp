// SPDX-License-Identifier: Apache-2.0
//
// isms/call.hpp: calls of a Doee to other Doees of its project, over isms_doee_call.h.
//
//     isms::CallAnswer answer = isms::call(request, isms::CallRequest("stock").json(order));
//
//     isms::PendingCall left = isms::start(request, isms::CallRequest("left"));     // both run at the same time
//     isms::PendingCall right = isms::start(request, isms::CallRequest("right"));
//     use(left.answer().json(), right.answer().json());
//
//     std::string process = isms::call_async(request, isms::CallRequest("report").body(text));
//
// The manifest's allow.call must name the callee. A call that fails throws isms::Error; a status such as 404 is an
// answer.
#pragma once

#include <isms_doee_call.h>
#include "doee.hpp"

namespace isms {

/// A call of another Doee.
class CallRequest {
  public:
    explicit CallRequest(std::string doee) : doee_(std::move(doee)) {}
    /// Adds a header field; isms-* and those of a connection are the platform's.
    CallRequest &header(std::string name, std::string value) {
        return headers_.emplace_back(std::move(name), std::move(value)), *this;
    }
    /// Sets the body, of at most 16 MiB; of 1 MiB if the call is asynchronous.
    CallRequest &body(std::string bytes, std::string content_type = {}) {
        body_ = std::move(bytes);
        return content_type.empty() ? *this : header("content-type", std::move(content_type));
    }
    /// Sets the body to JSON.
    CallRequest &json(const Json &value) { return body(value.dump(), "application/json"); }
    /// Lowers the class to this one, an ISMS_CLASS_ number.
    CallRequest &class_max(std::uint32_t number) { return class_max_ = number, *this; }
    /// Shortens the time, waiting included.
    CallRequest &deadline_ms(std::uint32_t deadline) { return deadline_ms_ = deadline, *this; }

    /// Starts it; the handle is for isms_wait and isms_release.
    isms_handle start(isms_call *call, std::uint32_t flags = 0) const {
        std::vector<isms_pair> pairs;
        pairs.reserve(headers_.size());
        for (const auto &[name, value] : headers_) pairs.push_back({detail::text(name), detail::text(value)});
        const isms_invoke_request raw = {sizeof(isms_invoke_request), detail::text(doee_), pairs.data(), pairs.size(),
                                         detail::text(body_), class_max_, deadline_ms_, flags, 0};
        isms_handle handle = 0;
        detail::check(call, isms_invoke_start(call, &raw, &handle));
        return handle;
    }

  private:
    std::string doee_, body_;
    std::vector<std::pair<std::string, std::string>> headers_;
    std::uint32_t class_max_ = ISMS_CLASS_SAME, deadline_ms_ = 0;
};

namespace detail {

struct Invoke {
    using Head = isms_invoke_answer;
    static isms_result head(isms_call *call, isms_handle handle, const Head **answer) {
        return isms_invoke_answer_get(call, handle, answer);
    }
    static isms_result read(isms_call *call, isms_handle handle, void *buffer, std::size_t capacity, std::size_t *len) {
        return isms_invoke_read(call, handle, buffer, capacity, len);
    }
};

} // namespace detail

/// What another Doee answered. Views of it are good while it lives.
class CallAnswer : public detail::Answer<detail::Invoke> {
  public:
    using Answer::Answer;
    /// The id of an asynchronous call; else empty.
    std::string_view process() const noexcept { return detail::view(answer_->process); }
};

/// A call that runs. Destroyed before it was answered, it is given up.
class PendingCall {
  public:
    explicit PendingCall(std::shared_ptr<const detail::Handle> handle) : handle_(std::move(handle)) {}
    /// For isms_wait, with others.
    isms_handle handle() const noexcept { return handle_->handle; }
    /// Waits for the answer.
    CallAnswer answer() const {
        std::size_t ready = 0;
        detail::check(handle_->call, isms_wait(handle_->call, &handle_->handle, 1, -1, &ready));
        return CallAnswer(handle_);
    }

  private:
    std::shared_ptr<const detail::Handle> handle_;
};

/// Starts a call.
inline PendingCall start(const Request &request, const CallRequest &call) {
    return PendingCall(std::make_shared<const detail::Handle>(request.raw(), call.start(request.raw())));
}

/// Calls and waits for the head of the answer.
inline CallAnswer call(const Request &request, const CallRequest &call) { return start(request, call).answer(); }

/// Has a call accepted that runs by itself; returns its process's id.
inline std::string call_async(const Request &request, const CallRequest &call) {
    const isms_handle handle = call.start(request.raw(), ISMS_INVOKE_ASYNC);
    const PendingCall pending(std::make_shared<const detail::Handle>(request.raw(), handle));
    return std::string(pending.answer().process());
}

} // namespace isms
