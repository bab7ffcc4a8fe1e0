//! Requests over HTTP/2 that are no gRPC calls, and their answers.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::{
    call::body::ResponseBody,
    errors::failure::{GRPC_MESSAGE, WAYMARK_ERROR},
    transport::preface::NOT_GRPC,
    wire::status::is_grpc,
};

/// Why a request is no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotGrpc {
    /// It is no POST.
    Method,
    /// Its content type is another one than gRPC's.
    ContentType,
}

impl NotGrpc {
    /// None: it is a call.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() != Method::POST {
            Some(Self::Method)
        } else if !is_grpc(request.headers()) {
            Some(Self::ContentType)
        } else {
            None
        }
    }

    /// The status of its answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// The same as a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::ContentType => "content-type",
        }
    }

    /// Its answer, as PROTOCOL-HTTP2.md asks: an HTTP status, so that nobody takes it for a
    /// success.
    pub(crate) fn response(self) -> Response<ResponseBody> {
        let message = match self {
            Self::Method => "gRPC calls are POST requests",
            Self::ContentType => "this port takes gRPC: content-type application/grpc",
        };
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(WAYMARK_ERROR, HeaderValue::from_static(NOT_GRPC));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        if self == Self::Method {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
