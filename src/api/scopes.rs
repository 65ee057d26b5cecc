//! Which scope each gRPC method needs, and which methods answer with a stream.

use crate::server::auth::Scope;

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: everybody may know whether this service is well.
    Nothing,
    /// To be known.
    Caller,
    /// This scope.
    Scope(Scope),
    /// There is no such method, or nobody has said here what it needs: it is not served.
    Unlisted,
}

impl Needs {
    /// Every method has a line here; `callers::every_method_needs_a_scope` finds one that has not.
    pub(super) fn of(method: &str) -> Self {
        match method {
            "/entitlements.v1.Entitlements/CheckFeature"
            | "/entitlements.v1.Entitlements/CheckFeatures"
            | "/entitlements.v1.Entitlements/CheckPlan"
            | "/entitlements.v1.Entitlements/ListEntitlements"
            | "/flagd.evaluation.v1.Service/ResolveAll"
            | "/flagd.evaluation.v1.Service/ResolveBoolean"
            | "/flagd.evaluation.v1.Service/ResolveString"
            | "/flagd.evaluation.v1.Service/ResolveInt"
            | "/flagd.evaluation.v1.Service/ResolveFloat"
            | "/flagd.evaluation.v1.Service/ResolveObject"
            | "/flagd.evaluation.v1.Service/EventStream"
            | "/flagd.evaluation.v2.Service/ResolveBoolean"
            | "/flagd.evaluation.v2.Service/ResolveString"
            | "/flagd.evaluation.v2.Service/ResolveInt"
            | "/flagd.evaluation.v2.Service/ResolveFloat"
            | "/flagd.evaluation.v2.Service/ResolveObject"
            | "/flagd.evaluation.v2.Service/EventStream"
            | "/flagd.sync.v1.FlagSyncService/SyncFlags"
            | "/flagd.sync.v1.FlagSyncService/FetchAllFlags"
            | "/flagd.sync.v1.FlagSyncService/GetMetadata"
            | "/envoy.service.auth.v3.Authorization/Check" => Self::Scope(Scope::Check),
            "/entitlements.v1.Admin/ListDeliveries"
            | "/entitlements.v1.Admin/GetDelivery"
            | "/entitlements.v1.Admin/ReplayDeliveries" => Self::Scope(Scope::Admin),
            "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" => Self::Nothing,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Caller,
            _ => Self::Unlisted,
        }
    }
}

/// Whether a method's answer goes on for longer than a call may take. `callers_streams::every_stream_ends_*` finds one
/// that is not listed here.
pub(super) fn is_stream(method: &str) -> bool {
    matches!(
        method,
        "/flagd.evaluation.v1.Service/EventStream"
            | "/flagd.evaluation.v2.Service/EventStream"
            | "/flagd.sync.v1.FlagSyncService/SyncFlags"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
}
