//! The `waymark.v1.Node` service. What each call means and answers stands in
//! `proto/waymark/v1/node.proto`.

use std::pin::Pin;

use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status};

use super::{
    access::Caller,
    candidate::{Candidates, NotLoaded, Wanted, short},
    convert,
    proto::{self, node_server::Node},
    roles::Role,
    similar_names::similar_names,
};
use crate::{
    balancer::{DiscoverError, ServiceClosed, ServiceHandle, Services, StateReader, SwapError},
    model::ServiceName,
    naming::NamingError,
    plugin::Grants,
};

/// Answers the node's API.
pub(super) struct NodeApi {
    services: Services,
    candidates: Candidates,
    /// Cancelled when the node begins to shut down: streams end then, which would run for ever.
    closing: CancellationToken,
}

impl NodeApi {
    pub(super) fn new(services: Services, candidates: Candidates, closing: CancellationToken) -> Self {
        Self { services, candidates, closing }
    }

    async fn handle(&self, name: &str, discover: bool, asker: &Extensions) -> Result<ServiceHandle, Status> {
        if let Some(handle) = self.services.get(name) {
            return Ok(handle);
        }
        // To have a service watched changes what this node does.
        if discover && asker.get::<Caller>().is_none_or(|caller| caller.role < Role::Write) {
            return Err(Status::permission_denied(
                "to have this node watch a further service (`discover`) takes what it takes to change a policy",
            ));
        }
        let name = ServiceName::new(name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !discover {
            return Err(unknown(&name, &self.services));
        }
        self.services.discover(&name).await.map_err(|error| not_discovered(&error))
    }
}

#[tonic::async_trait]
impl Node for NodeApi {
    async fn list_services(
        &self,
        request: Request<proto::ListServicesRequest>,
    ) -> Result<Response<proto::ListServicesResponse>, Status> {
        let with_endpoints = !request.into_inner().omit_endpoints;
        let services = self.services.list().iter().map(|handle| convert::service(handle, with_endpoints)).collect();
        Ok(Response::new(proto::ListServicesResponse { services }))
    }

    async fn get_service(
        &self,
        request: Request<proto::GetServiceRequest>,
    ) -> Result<Response<proto::Service>, Status> {
        let (_, asker, request) = request.into_parts();
        let handle = self.handle(&request.service, request.discover, &asker).await?;
        Ok(Response::new(convert::service(&handle, true)))
    }

    type WatchServiceStream = Pin<Box<dyn Stream<Item = Result<proto::Service, Status>> + Send>>;

    async fn watch_service(
        &self,
        request: Request<proto::GetServiceRequest>,
    ) -> Result<Response<Self::WatchServiceStream>, Status> {
        let (_, asker, request) = request.into_parts();
        let handle = self.handle(&request.service, request.discover, &asker).await?;
        let follow = Follow {
            services: self.services.clone(),
            name: handle.name().clone(),
            reader: handle.subscribe(),
            closing: self.closing.clone(),
            begun: false,
        };
        // Nothing is read ahead: a message is made when the transport has room for it, from what is
        // published then.
        let messages = stream::unfold(Some(follow), |follow| async {
            let mut follow = follow?;
            match follow.next().await {
                Ok(service) => Some((Ok(service), Some(follow))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn get_policy(
        &self,
        request: Request<proto::GetPolicyRequest>,
    ) -> Result<Response<proto::PolicyStatus>, Status> {
        let handle = self.handle(&request.into_inner().service, false, &Extensions::default()).await?;
        Ok(Response::new(convert::policy_status(&handle)))
    }

    async fn set_policy(
        &self,
        request: Request<proto::SetPolicyRequest>,
    ) -> Result<Response<proto::PolicyStatus>, Status> {
        let (_, asker, request) = request.into_parts();
        let proto::SetPolicyRequest { service, source, config, by, origin, discover, allow } = request;
        let by = signed(&asker, by);
        let source = source.ok_or_else(|| {
            Status::invalid_argument(
                "no policy was sent: set `bundled` to a name, or `component` to a component's bytes",
            )
        })?;
        let allow = Grants::parse(allow.iter().map(String::as_str))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let handle = self.handle(&service, discover, &asker).await?;
        let limits = self.services.limits(handle.name());
        let candidate = match self.candidates.load(Wanted { source, config, allow, by, origin }, limits).await {
            Ok(candidate) => candidate,
            Err(NotLoaded { status, refused }) => {
                if let Some(refused) = refused {
                    let (info, reason) = *refused;
                    // A service that has ended meanwhile needs no history.
                    let _ = handle.refuse(info, reason).await;
                }
                return Err(status);
            }
        };
        let published = handle.set_policy(candidate).await.map_err(|error| not_swapped(&error))?;
        Ok(Response::new(convert::swapped(&handle, &published)))
    }

    async fn rollback_policy(
        &self,
        request: Request<proto::RollbackPolicyRequest>,
    ) -> Result<Response<proto::PolicyStatus>, Status> {
        let (_, asker, request) = request.into_parts();
        let proto::RollbackPolicyRequest { service, version, by } = request;
        let handle = self.handle(&service, false, &asker).await?;
        let published =
            handle.roll_back(version, short(&signed(&asker, by))).await.map_err(|error| not_swapped(&error))?;
        Ok(Response::new(convert::swapped(&handle, &published)))
    }
}

/// Who makes a change, for the history.
fn signed(asker: &Extensions, by: String) -> String {
    match asker.get::<Caller>() {
        Some(caller) => caller.sign(by),
        None => by,
    }
}

/// One watcher. It holds no handle to the service, which would keep a removed service alive.
struct Follow {
    services: Services,
    name: ServiceName,
    reader: StateReader,
    closing: CancellationToken,
    begun: bool,
}

impl Follow {
    /// The service as it is now, at first; afterwards as it is after a change that was not told
    /// yet.
    async fn next(&mut self) -> Result<proto::Service, Status> {
        if self.begun {
            tokio::select! {
                changed = self.reader.changed() => changed.map_err(gone)?,
                () = self.closing.cancelled() => return Err(Status::unavailable("this node is shutting down")),
            }
        }
        self.begun = true;
        let handle = self.services.get(self.name.as_str()).ok_or_else(|| gone(ServiceClosed))?;
        Ok(convert::service(&handle, true))
    }
}

fn gone(closed: ServiceClosed) -> Status {
    Status::unavailable(closed.to_string())
}

/// Says what is watched instead, the most similar names first.
fn unknown(name: &ServiceName, services: &Services) -> Status {
    const SHOWN: usize = 5;
    let handles = services.list();
    let hint = if handles.is_empty() {
        "it watches none yet".to_owned()
    } else {
        let shown = similar_names(name.as_str(), handles.iter().map(|handle| handle.name().as_str()), SHOWN);
        let more = handles.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("it watches {}{more}", shown.join(", "))
    };
    Status::not_found(format!(
        "this node does not watch {name}; {hint}. A node begins to watch a service with its first call, or when it is asked to (`discover`)"
    ))
}

fn not_discovered(error: &DiscoverError) -> Status {
    let message = error.to_string();
    match error {
        DiscoverError::Naming(NamingError::Failed { .. }) => Status::internal(message),
        DiscoverError::Naming(_) => Status::invalid_argument(message),
        DiscoverError::TooMany { .. } => Status::resource_exhausted(message),
        DiscoverError::NotAllowed { .. } => Status::permission_denied(message),
        _ => Status::internal(message),
    }
}

fn not_swapped(error: &SwapError) -> Status {
    let message = error.to_string();
    match error {
        SwapError::Refused { .. } => Status::failed_precondition(message),
        SwapError::NoSuchVersion { .. } => Status::not_found(message),
        SwapError::Closed(_) => Status::unavailable(message),
        _ => Status::internal(message),
    }
}
