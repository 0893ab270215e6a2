//! What anybody may see: a page that says what this is, and the OpenAPI document.

use http::{HeaderValue, Response, header};
use isms_http::Body;

use crate::routes::Action;

/// The page; complete in itself.
const PAGE: &str = include_str!("page.html");
/// The document.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");
/// The page has one inline style and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The response to an open route.
pub(crate) fn respond(action: Action) -> Response<Body> {
    let (content_type, text) = match action {
        Action::OpenApi => ("application/json", OPENAPI),
        _ => ("text/html; charset=utf-8", PAGE),
    };
    let mut response = Response::new(Body::full(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if action == Action::Page {
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(PAGE_POLICY),
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::OPENAPI;
    use crate::routes::{Access, ROUTES};

    /// Right of each route as the document spells it.
    fn right(access: Access) -> Value {
        match access {
            Access::Open => Value::Null,
            Access::Right(right) => serde_json::to_value(right).expect("a name"),
        }
    }

    #[test]
    fn the_document_describes_exactly_the_routes_and_their_rights() {
        let document: Value = serde_json::from_str(OPENAPI).expect("json");
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let right = operation["x-isms-right"].to_string();
                described.insert((method.to_uppercase(), path.clone(), right));
            }
        }
        let routes = ROUTES.iter().map(|spec| {
            (
                spec.method.to_string(),
                spec.path.to_owned(),
                right(spec.access).to_string(),
            )
        });
        assert_eq!(described, routes.collect());
    }

    #[test]
    fn operations_have_unique_ids_and_describe_their_parameters() {
        let document: Value = serde_json::from_str(OPENAPI).expect("json");
        let mut ids = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for operation in methods.as_object().expect("methods").values() {
                assert!(
                    ids.insert(operation["operationId"].as_str().expect("an id").to_owned()),
                    "{path}"
                );
                let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
                let in_path = parameters
                    .iter()
                    .filter(|parameter| parameter["in"] != "query" && parameter["in"] != "header")
                    .count();
                assert_eq!(in_path, path.matches('{').count(), "{path}");
                assert!(
                    operation["summary"].is_string() && operation["responses"].is_object(),
                    "{path}"
                );
            }
        }
    }
}
