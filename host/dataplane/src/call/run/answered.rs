//! What a server answered, on its way to being the call's answer.

use std::{future::poll_fn, sync::Arc};

use http::{Response, response};
use waymark_balancer::{CallGuard, CallPermit};
use waymark_core::{
    model::{Address, ServiceName},
    traffic::{Code, Tokens},
};

use super::{Call, RequestBody};
use crate::{
    call::{
        body::{ResponseBody, StreamedAnswer, UploadTask},
        upload::{Source, Upload},
    },
    observe::record::RequestRecord,
    upstream::{exchange::Answer, streams::StreamPermit},
};

/// What a server answered.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and a box would cost each call an allocation"
)]
pub(super) enum Answered {
    /// Its head was all, as it is for most failures.
    Whole { head: response::Parts, code: Code },
    /// There is more to come.
    Begun(Begun),
}

/// An answer that has begun.
pub(super) struct Begun {
    pub(super) head: response::Parts,
    pub(super) answer: Answer,
    /// What of the request is still to be sent, from the call's source.
    pub(super) upload: Option<Upload>,
    /// The same, if it is on its way already.
    pub(super) rest: Option<UploadTask>,
    pub(super) guard: CallGuard,
    pub(super) permit: StreamPermit,
    pub(super) address: Address,
    /// The budget that gets something back if it ends well, where there are retries.
    pub(super) tokens: Option<Arc<Tokens>>,
}

impl<B: RequestBody> Call<'_, B> {
    /// Turns the head of an answer into the answer.
    pub(super) fn pass_on(
        self,
        service: ServiceName,
        begun: Begun,
        place: CallPermit,
        record: RequestRecord,
    ) -> Response<ResponseBody> {
        let Begun { head, answer, upload, rest: detached, guard, permit, address, tokens } = begun;
        let limit = self.answer_limit();
        let source = self.source;
        let rest = detached.or_else(|| rest(upload?, source));
        let stream = StreamedAnswer {
            answer,
            service,
            address,
            guard,
            _place: place,
            record,
            tokens,
            limit,
            deadline: self.deadline,
            stream_idle: self.stream_idle,
            _upload: rest,
            _permit: permit,
        };
        Response::from_parts(head, ResponseBody::streaming(stream))
    }
}

/// Sends what is left of a request beside its answer.
pub(super) fn rest<B: RequestBody>(mut upload: Upload, mut source: Source<B>) -> Option<UploadTask> {
    (!upload.is_done()).then(|| {
        let rest = async move {
            if poll_fn(|cx| upload.poll(&mut source, cx)).await.is_err() {
                // The answer shows it.
                upload.give_up();
            }
        };
        UploadTask(tokio::spawn(rest))
    })
}
