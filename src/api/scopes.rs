//! The required scope of each gRPC method, and the methods whose answer is a stream.

use crate::server::auth::Scope;

/// The requirement of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequiredScope {
    /// No authentication, for health.
    Nothing,
    /// Any authenticated caller.
    Caller,
    /// A caller with this scope.
    Scope(Scope),
    /// The method is unknown or not listed here: it is not served.
    Unlisted,
}

impl RequiredScope {
    /// The requirement of a method, by its path. Every method must be listed here; a test compares the list with the
    /// descriptors.
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
            "/entitlements.v1.Support/Explain"
            | "/entitlements.v1.Support/ListHistory"
            | "/entitlements.v1.Support/ListSubjects"
            | "/entitlements.v1.Support/PreviewPlan" => Self::Scope(Scope::Support),
            "/entitlements.v1.Overrides/SetOverride"
            | "/entitlements.v1.Overrides/EndOverride"
            | "/entitlements.v1.Overrides/ListOverrides" => Self::Scope(Scope::Overrides),
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

/// Whether a method answers with a stream, which may outlast the deadline of a call. Every such method must be listed
/// here, so that its stream ends when the caller's access is revoked; a test opens each of them.
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
