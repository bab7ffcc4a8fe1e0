//! Users and roles, which are kept and asked for nothing.

use etcd_client::{Permission, RoleRevokePermissionOptions, UserAddOptions};

use super::fixture::{Registry, on_both, refusal};

async fn users_are_kept_with_their_roles(mut r: Registry) {
    let it = &mut r.client;
    it.user_add("a", "secret", None).await.unwrap();
    it.user_add("b", "", Some(UserAddOptions::new().with_no_pwd())).await.unwrap();
    let taken = "FailedPrecondition: etcdserver: user name already exists";
    assert_eq!(refusal(it.user_add("a", "other", None).await), taken);
    assert_eq!(refusal(it.user_add("", "x", None).await), "InvalidArgument: etcdserver: user name is empty");
    assert_eq!(it.user_list().await.unwrap().users(), ["a", "b"]);
    it.user_change_password("a", "new").await.unwrap();

    assert_eq!(refusal(it.user_grant_role("a", "r").await), "FailedPrecondition: etcdserver: role name not found");
    it.role_add("r").await.unwrap();
    for role in ["root", "r", "r"] {
        it.user_grant_role("a", role).await.unwrap();
    }
    assert_eq!(it.user_get("a").await.unwrap().roles(), ["r", "root"]);
    it.user_revoke_role("a", "r").await.unwrap();
    let not_granted = "FailedPrecondition: etcdserver: role is not granted to the user";
    assert_eq!(refusal(it.user_revoke_role("a", "r").await), not_granted);
    it.user_delete("b").await.unwrap();
    assert_eq!(refusal(it.user_delete("b").await), "FailedPrecondition: etcdserver: user name not found");
    let no_root = "FailedPrecondition: etcdserver: root user does not exist";
    assert_eq!(refusal(it.auth_enable().await), no_root);
    it.user_add("root", "secret", None).await.unwrap();
    let no_role = "FailedPrecondition: etcdserver: root user does not have root role";
    assert_eq!(refusal(it.auth_enable().await), no_role);
}

async fn roles_are_kept_with_their_permissions(mut r: Registry) {
    let it = &mut r.client;
    it.role_add("r").await.unwrap();
    assert_eq!(refusal(it.role_add("r").await), "FailedPrecondition: etcdserver: role name already exists");
    assert_eq!(refusal(it.role_add("").await), "InvalidArgument: etcdserver: role name is empty");
    let write_b = Permission::write("b").with_range_end("d");
    for granted in [write_b.clone(), Permission::read("a"), Permission::read_write("b").with_range_end("d")] {
        it.role_grant_permission("r", granted).await.unwrap();
    }
    let kept = it.role_get("r").await.unwrap().permissions();
    assert_eq!(kept, [Permission::read("a"), Permission::read_write("b").with_range_end("d")]);
    let not_granted = "FailedPrecondition: etcdserver: permission is not granted to the role";
    assert_eq!(refusal(it.role_revoke_permission("r", "b", None).await), not_granted);
    let range = RoleRevokePermissionOptions::new().with_range_end("d");
    it.role_revoke_permission("r", "b", Some(range)).await.unwrap();
    assert_eq!(it.role_get("r").await.unwrap().permissions(), [Permission::read("a")]);
    it.user_add("u", "secret", None).await.unwrap();
    it.user_grant_role("u", "r").await.unwrap();
    it.role_delete("r").await.unwrap();
    assert_eq!(it.user_get("u").await.unwrap().roles(), [""; 0]);
    assert_eq!(it.role_list().await.unwrap().roles(), [""; 0]);
    let none = "FailedPrecondition: etcdserver: role name not found";
    assert_eq!(refusal(it.role_grant_permission("r", Permission::read("a")).await), none);
}

on_both!(users_are_kept_with_their_roles, roles_are_kept_with_their_permissions);

#[tokio::test]
async fn authentication_cannot_be_enabled_and_says_so() {
    let mut r = Registry::embedded().await;
    r.client.user_add("root", "secret", None).await.unwrap();
    r.client.role_add("root").await.unwrap();
    r.client.user_grant_role("root", "root").await.unwrap();
    let refused = refusal(r.client.auth_enable().await);
    assert!(refused.starts_with("Unimplemented: the embedded registry asks nobody who he is"), "{refused}");
    r.client.put("a", "b", None).await.unwrap();
}
