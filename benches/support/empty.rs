//! The baseline: handlers that do nothing, on tonic's server with default settings.

use entitlements::api::pb::{
    self,
    entitlements_server::{Entitlements, EntitlementsServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

pub(super) async fn serve(address: &str) -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind(address.parse()?)?.with_nodelay(Some(true));
    let server = Server::builder().add_service(EntitlementsServer::new(Nothing));
    Ok(server.serve_with_incoming(incoming).await?)
}

struct Nothing;

#[tonic::async_trait]
impl Entitlements for Nothing {
    async fn check_feature(
        &self,
        _: Request<pb::CheckFeatureRequest>,
    ) -> Result<Response<pb::CheckFeatureResponse>, Status> {
        Ok(Response::new(pb::CheckFeatureResponse { allowed: true, ..Default::default() }))
    }

    async fn check_features(
        &self,
        _: Request<pb::CheckFeaturesRequest>,
    ) -> Result<Response<pb::CheckFeaturesResponse>, Status> {
        Ok(Response::new(pb::CheckFeaturesResponse::default()))
    }

    async fn check_plan(
        &self,
        _: Request<pb::CheckPlanRequest>,
    ) -> Result<Response<pb::CheckPlanResponse>, Status> {
        Ok(Response::new(pb::CheckPlanResponse::default()))
    }

    async fn list_entitlements(
        &self,
        _: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        Ok(Response::new(pb::ListEntitlementsResponse::default()))
    }
}
