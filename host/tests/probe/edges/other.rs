//! The rest: authentication that is off, alarms, status, calls that do not exist.

use etcd_client::proto::{PbAlarmRequest, PbHashKvRequest};

use crate::script::{Action, NOW, Script, delete, get, put};

pub(super) fn add(s: &mut Script) {
    s.rule("authentication is not enabled");
    for path in [
        "/etcdserverpb.Auth/Authenticate",
        "/etcdserverpb.Auth/AuthEnable",
        "/etcdserverpb.Auth/AuthDisable",
        "/etcdserverpb.Auth/UserList",
        "/etcdserverpb.Auth/UserGet",
        "/etcdserverpb.Auth/RoleList",
        "/etcdserverpb.Auth/RoleGet",
        "/etcdserverpb.Auth/AuthStatus",
    ] {
        s.act(Action::Plain(path));
    }
    s.rule("an alarm stops puts until it is cleared");
    let alarm = |action, alarm| Action::Alarm(PbAlarmRequest { action, alarm, member_id: 0 });
    s.act(alarm(0, 0)).act(alarm(1, 1)).act(put("a", "1")).act(delete("a", "")).act(get("a", ""));
    s.act(alarm(0, 0)).act(alarm(0, 1)).act(Action::Status).act(alarm(2, 1)).act(alarm(0, 0)).act(put("a", "1"));
    s.rule("one member leads").act(Action::Status).act(Action::Members);
    s.rule("a member that is not there");
    s.act(Action::Plain("/etcdserverpb.Cluster/MemberRemove"))
        .act(Action::Plain("/etcdserverpb.Cluster/MemberPromote"));
    s.act(Action::Plain("/etcdserverpb.Maintenance/MoveLeader"));
    s.rule("a hash of the future is refused").act(Action::HashKv(PbHashKvRequest { revision: NOW + 1 }));
    s.rule("calls that do not exist");
    s.act(Action::Plain("/no.such.Service/Method")).act(Action::Plain("/etcdserverpb.KV/NoSuchMethod"));
    s.clear();
}
