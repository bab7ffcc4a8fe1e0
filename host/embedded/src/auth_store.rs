//! Users and roles, as an etcd keeps them on which authentication was never enabled: they can be
//! written and read, and nobody is asked for them.
//!
//! Pure. No password is kept: nothing would ever compare it. Rules, their order and what is refused
//! are those of etcd's auth store.

use std::collections::{BTreeMap, BTreeSet};

use super::error::EtcdError;

/// The user and the role without which authentication cannot be enabled.
const ROOT: &str = "root";

/// What a role may do with some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permission {
    /// 0 to read, 1 to write, 2 for both.
    pub(super) kind: i32,
    pub(super) key: Vec<u8>,
    pub(super) range_end: Vec<u8>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct AuthStore {
    /// The roles of each user.
    users: BTreeMap<String, BTreeSet<String>>,
    /// The permissions of each role, sorted by key.
    roles: BTreeMap<String, Vec<Permission>>,
    /// Raised by each change.
    revision: u64,
}

impl Default for AuthStore {
    fn default() -> Self {
        Self { users: BTreeMap::new(), roles: BTreeMap::new(), revision: 1 }
    }
}

impl AuthStore {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What etcd says before it enables authentication.
    pub(super) fn may_enable(&self) -> Result<(), EtcdError> {
        let roles = self.users.get(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if roles.contains(ROOT) { Ok(()) } else { Err(EtcdError::RootRoleNotExist) }
    }

    pub(super) fn add_user(&mut self, name: &str) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(EtcdError::UserExists);
        }
        self.users.insert(name.to_owned(), BTreeSet::new());
        self.changed();
        Ok(())
    }

    pub(super) fn delete_user(&mut self, name: &str) -> Result<(), EtcdError> {
        self.users.remove(name).ok_or(EtcdError::UserNotFound)?;
        self.changed();
        Ok(())
    }

    pub(super) fn change_password(&mut self, name: &str) -> Result<(), EtcdError> {
        self.user(name)?;
        self.changed();
        Ok(())
    }

    /// The roles of a user.
    pub(super) fn user(&self, name: &str) -> Result<&BTreeSet<String>, EtcdError> {
        self.users.get(name).ok_or(EtcdError::UserNotFound)
    }

    pub(super) fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// The role `root` can be granted without being there.
    pub(super) fn grant_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        let roles = self.users.get_mut(user).ok_or(EtcdError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(EtcdError::RoleNotFound);
        }
        if roles.insert(role.to_owned()) {
            self.changed();
        }
        Ok(())
    }

    pub(super) fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), EtcdError> {
        let roles = self.users.get_mut(user).ok_or(EtcdError::UserNotFound)?;
        if !roles.remove(role) {
            return Err(EtcdError::RoleNotGranted);
        }
        self.changed();
        Ok(())
    }

    pub(super) fn add_role(&mut self, name: &str) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(EtcdError::RoleExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.changed();
        Ok(())
    }

    pub(super) fn delete_role(&mut self, name: &str) -> Result<(), EtcdError> {
        self.roles.remove(name).ok_or(EtcdError::RoleNotFound)?;
        for roles in self.users.values_mut() {
            roles.remove(name);
        }
        self.changed();
        Ok(())
    }

    /// The permissions of a role; those of `root` are all there are.
    pub(super) fn role(&self, name: &str) -> Result<Vec<Permission>, EtcdError> {
        let permissions = self.roles.get(name).ok_or(EtcdError::RoleNotFound)?;
        if name == ROOT {
            return Ok(vec![Permission { kind: 2, key: Vec::new(), range_end: vec![0] }]);
        }
        Ok(permissions.clone())
    }

    pub(super) fn roles(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub(super) fn grant_permission(&mut self, role: &str, permission: Option<Permission>) -> Result<(), EtcdError> {
        let granted = permission.ok_or(EtcdError::PermissionNotGiven)?;
        if !is_range(&granted.key, &granted.range_end) {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let permissions = self.roles.get_mut(role).ok_or(EtcdError::RoleNotFound)?;
        let same = |it: &&mut Permission| it.key == granted.key && it.range_end == granted.range_end;
        if let Some(known) = permissions.iter_mut().find(same) {
            known.kind = granted.kind;
        } else {
            let at = permissions.partition_point(|it| it.key <= granted.key);
            permissions.insert(at, granted);
        }
        self.changed();
        Ok(())
    }

    pub(super) fn revoke_permission(&mut self, role: &str, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        let permissions = self.roles.get_mut(role).ok_or(EtcdError::RoleNotFound)?;
        let before = permissions.len();
        permissions.retain(|it| it.key != key || it.range_end != range_end);
        if permissions.len() == before {
            return Err(EtcdError::PermissionNotGranted);
        }
        self.changed();
        Ok(())
    }

    fn changed(&mut self) {
        self.revision += 1;
    }
}

/// Whether there can be a key in it: one alone, or from one to a greater one, or to the end (`\0`).
fn is_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn permission(key: &str, range_end: &str, kind: i32) -> Permission {
        Permission { kind, key: key.into(), range_end: range_end.into() }
    }

    #[test]
    fn users_and_roles_are_kept_and_nothing_else_is_made_of_them() {
        let mut it = AuthStore::default();
        assert_eq!(it.may_enable(), Err(EtcdError::RootUserNotExist));
        it.add_user("root").unwrap();
        assert_eq!(it.add_user("root"), Err(EtcdError::UserExists));
        assert_eq!(it.add_user(""), Err(EtcdError::UserEmpty));
        assert_eq!(it.may_enable(), Err(EtcdError::RootRoleNotExist));
        it.grant_role("root", "root").unwrap();
        assert_eq!(it.may_enable(), Ok(()));
        let before = it.revision();
        it.grant_role("root", "root").unwrap();
        assert_eq!(it.revision(), before, "it had the role");
        assert_eq!(it.grant_role("nobody", "nothing"), Err(EtcdError::UserNotFound));
        assert_eq!(it.grant_role("root", "nothing"), Err(EtcdError::RoleNotFound));
        assert_eq!(it.revoke_role("root", "nothing"), Err(EtcdError::RoleNotGranted));
        assert_eq!(it.change_password("nobody"), Err(EtcdError::UserNotFound));
        it.add_role("reader").unwrap();
        it.grant_role("root", "reader").unwrap();
        assert!(it.user("root").unwrap().iter().eq(["reader", "root"]));
        it.delete_role("reader").unwrap();
        assert!(it.user("root").unwrap().iter().eq(["root"]), "a role that is gone is nobody's");
        assert_eq!(it.delete_role("reader"), Err(EtcdError::RoleNotFound));
        it.delete_user("root").unwrap();
        assert_eq!((it.users(), it.user("root")), (vec![], Err(EtcdError::UserNotFound)));
    }

    #[test]
    fn permissions_are_sorted_by_key_and_replaced_where_they_are_of_the_same_range() {
        let mut it = AuthStore::default();
        assert_eq!(it.grant_permission("r", Some(permission("a", "", 0))), Err(EtcdError::RoleNotFound));
        it.add_role("r").unwrap();
        assert_eq!(it.grant_permission("r", None), Err(EtcdError::PermissionNotGiven));
        for (key, end) in [("", ""), ("", "\0"), ("b", "a"), ("b", "b")] {
            assert_eq!(
                it.grant_permission("r", Some(permission(key, end, 0))),
                Err(EtcdError::InvalidAuthMgmt),
                "{key} {end}"
            );
        }
        for granted in
            [permission("b", "c", 0), permission("a", "", 1), permission("b", "c", 2), permission("\0", "\0", 0)]
        {
            it.grant_permission("r", Some(granted)).unwrap();
        }
        assert_eq!(it.role("r").unwrap(), [permission("\0", "\0", 0), permission("a", "", 1), permission("b", "c", 2)]);
        assert_eq!(it.revoke_permission("r", b"b", b""), Err(EtcdError::PermissionNotGranted));
        it.revoke_permission("r", b"b", b"c").unwrap();
        assert_eq!(it.role("r").unwrap().len(), 2);
        it.add_role("root").unwrap();
        assert_eq!(it.role("root").unwrap(), [permission("", "\0", 2)]);
    }
}
