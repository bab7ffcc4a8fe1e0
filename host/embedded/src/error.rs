//! Why a call is refused, with the codes and words etcd uses, since clients compare both.
//!
//! The texts and codes are those of `api/v3rpc/rpctypes/error.go` in etcd. How a refusal reaches
//! the client is left to the gRPC layer, which only converts it.

use tonic::{Code, Status};

/// A request that etcd would refuse. `Display` is the exact message of the gRPC status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EtcdError {
    /// The key of a put, a range, a delete or a comparison is empty.
    #[error("etcdserver: key is not provided")]
    KeyNotProvided,
    /// `ignore_value` or `ignore_lease` names a key that does not exist, or a txn holds an empty
    /// operation.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A txn has more operations than allowed on one level.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A txn writes one key twice, or writes and deletes it.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target outside the enumeration.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// The request exceeds 1.5 MiB.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The revision asked for is no longer held.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision asked for is not there yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The quota is used up (alarm NOSPACE).
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The alarm CORRUPT was raised by an operator.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease with the id asked for exists.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A TTL over nine thousand million seconds.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// No member with that id.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// Only a learner can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// Leadership cannot move to that member.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// Authentication does not exist here, as on an etcd where it was never enabled.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// Authentication cannot be enabled without a root user.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// The same without the role `root`.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A user without a name.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// A user with that name exists.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// No user with that name.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// A role with that name exists.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No role with that name.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// The user does not have the role that is to be taken.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission that is to be taken.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// A permission is to be granted, and none was sent.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// A permission for keys that cannot be.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthMgmt,
    /// The server is shutting down.
    #[error("etcdserver: server stopped")]
    Stopped,
}

impl EtcdError {
    fn code(self) -> Code {
        match self {
            Self::KeyNotProvided
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::RequestTooLarge
            | Self::UserEmpty
            | Self::RoleEmpty
            | Self::PermissionNotGiven
            | Self::InvalidAuthMgmt => Code::InvalidArgument,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => Code::OutOfRange,
            Self::NoSpace => Code::ResourceExhausted,
            Self::Corrupt => Code::DataLoss,
            Self::LeaseNotFound | Self::MemberNotFound => Code::NotFound,
            Self::LeaseExists
            | Self::MemberNotLearner
            | Self::BadLeaderTransferee
            | Self::AuthNotEnabled
            | Self::RootUserNotExist
            | Self::RootRoleNotExist
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted => Code::FailedPrecondition,
            Self::Stopped => Code::Unavailable,
        }
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
