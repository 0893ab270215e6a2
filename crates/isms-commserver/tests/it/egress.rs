//! Requests to servers outside: real servers on loopback, real TLS, names as the test tells them.

mod attacks;
mod harness;
mod redirects;
mod requests;
mod tls;
