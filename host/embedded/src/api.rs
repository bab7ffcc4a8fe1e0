//! The gRPC services of the server behind one door, which finds the service by the path of the
//! request.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Service, util::BoxCloneSyncService};

use super::{
    auth,
    call_metrics::CallMetrics,
    cluster::ClusterApi,
    election_api,
    kv::KvApi,
    lease_api::LeaseApi,
    lock_api,
    maintenance::MaintenanceApi,
    pages,
    rpc::{MAX_DECODED_BYTES, unknown_method},
    shared::Shared,
    watch_api::WatchApi,
};

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct Api {
    shared: Arc<Shared>,
    calls: CallMetrics,
    kv: PbKvServer<KvApi>,
    watch: PbWatchServer<WatchApi>,
    lease: PbLeaseServer<LeaseApi>,
    cluster: PbClusterServer<ClusterApi>,
    maintenance: PbMaintenanceServer<MaintenanceApi>,
    health: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // The reporter may go: the status of the server as a whole starts as "serving" and stays
        // so.
        let (_reporter, health) = tonic_health::server::health_reporter();
        let common = || Arc::clone(&shared);
        Self {
            kv: PbKvServer::new(KvApi(common())).max_decoding_message_size(MAX_DECODED_BYTES),
            watch: PbWatchServer::new(WatchApi(common())),
            lease: PbLeaseServer::new(LeaseApi(common())),
            cluster: PbClusterServer::new(ClusterApi(common())),
            maintenance: PbMaintenanceServer::new(MaintenanceApi(common())),
            health: BoxCloneSyncService::new(health),
            calls: CallMetrics::default(),
            shared,
        }
    }

    fn route(&mut self, service: &str, method: &str, request: Request<Body>) -> Answer {
        match service {
            "etcdserverpb.KV" => self.kv.call(request),
            "etcdserverpb.Watch" => self.watch.call(request),
            "etcdserverpb.Lease" => self.lease.call(request),
            "etcdserverpb.Cluster" => self.cluster.call(request),
            "etcdserverpb.Maintenance" => self.maintenance.call(request),
            "grpc.health.v1.Health" => Box::pin(self.health.call(request)),
            "etcdserverpb.Auth" => by_name(auth::call(Arc::clone(&self.shared), method.to_owned(), request)),
            "v3lockpb.Lock" => by_name(lock_api::call(Arc::clone(&self.shared), method.to_owned(), request)),
            "v3electionpb.Election" => {
                by_name(election_api::call(Arc::clone(&self.shared), method.to_owned(), request))
            }
            _ => Box::pin(ready(Ok(unknown(format!("unknown service {service}"))))),
        }
    }
}

impl Service<Request<Body>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All the services are ready at all times: they hold no permits and no connections.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        if let Some(page) = pages::answer(&request, &self.shared, &self.calls) {
            return Box::pin(ready(Ok(page)));
        }
        let path = request.uri().path().to_owned();
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return Box::pin(ready(Ok(unknown(format!("malformed method name: {path:?}")))));
        };
        let answer = self.route(service, method, request);
        let (service, method) = (service.to_owned(), method.to_owned());
        let calls = self.calls.clone();
        Box::pin(async move {
            let response = answer.await?;
            let headers = response.headers();
            if headers.get(Status::GRPC_STATUS).is_none_or(|code| code != "12") {
                return Ok(calls.count((service, method), response));
            }
            // The generated code answers a method it does not know without a word. What is not
            // there is not counted.
            if headers.get(Status::GRPC_MESSAGE).is_none_or(http::HeaderValue::is_empty) {
                return Ok(unknown_method(&method, &service));
            }
            Ok(response)
        })
    }
}

fn by_name(answer: impl Future<Output = Response<Body>> + Send + 'static) -> Answer {
    Box::pin(async { Ok(answer.await) })
}

fn unknown(message: String) -> Response<Body> {
    Status::new(Code::Unimplemented, message).into_http()
}
