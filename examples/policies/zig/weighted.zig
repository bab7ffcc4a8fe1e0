//! my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//!
//! A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
//! what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.

const std = @import("std");
const waymark = @import("waymark.zig");
const readInteger = @import("config.zig").readInteger;

/// A plan has at most so many entries, unless there are more endpoints than that.
const max_turns = 16384;

/// One turn of an endpoint: when it is due, as a part of the round.
const Turn = struct {
    due: f64,
    endpoint: u32,

    fn before(_: void, a: Turn, b: Turn) bool {
        return if (a.due != b.due) a.due < b.due else a.endpoint < b.endpoint;
    }
};

pub const panic = waymark.panic;

comptime {
    waymark.exportPolicy(@This());
}

pub const description: waymark.Description = .{
    .name = "my_policy",
    .version = "0.1.0",
    .summary = "In turn by weight; endpoints of the own zone count several times.",
    .fields = &.{.{
        .name = "zone_factor",
        .default = "4",
        .doc = "how many times its weight an endpoint of the node's own zone counts, 1 to 100",
    }},
};

pub fn build(
    allocator: std.mem.Allocator,
    config: []const u8,
    scope: waymark.Scope,
    endpoints: []const waymark.Endpoint,
) waymark.Error!waymark.Plan {
    const zone_factor = try readInteger(allocator, config, "zone_factor", 1, 100, 4);

    // A weight of 0 means: send it nothing.
    var receiving: std.ArrayList(u32) = .empty;
    var shares: std.ArrayList(u64) = .empty;
    for (endpoints, 0..) |endpoint, index| {
        if (endpoint.weight == 0) continue;
        const is_home = scope.zone.len > 0 and std.mem.eql(u8, endpoint.zone.slice(), scope.zone);
        try receiving.append(allocator, @intCast(index));
        try shares.append(allocator, @as(u64, endpoint.weight) * if (is_home) zone_factor else 1);
    }

    // The turns of each are spread evenly over the round, and the endpoints begin one after the other.
    const n = shares.items.len;
    var turns: std.ArrayList(Turn) = try .initCapacity(allocator, shorten(shares.items));
    for (receiving.items, shares.items, 0..) |endpoint, share, i| {
        for (0..@intCast(share)) |k| {
            const due = @as(f64, @floatFromInt(2 * n * k + 2 * i + 1)) / @as(f64, @floatFromInt(share));
            turns.appendAssumeCapacity(.{ .due = due, .endpoint = endpoint });
        }
    }
    std.mem.sortUnstable(Turn, turns.items, {}, Turn.before);

    const entries = try allocator.alloc(u32, turns.items.len);
    for (entries, turns.items) |*entry, turn| entry.* = turn.endpoint;
    return .{ .rotation = entries };
}

/// How long the round is. It is halved until it is short enough, so that nobody falls to nothing.
fn shorten(shares: []u64) usize {
    while (true) {
        var total: u64 = 0;
        for (shares) |share| total += share;
        if (total <= @max(max_turns, shares.len)) return @intCast(total);
        for (shares) |*share| share.* = (share.* + 1) / 2;
    }
}

/// Never called: `build` answers a plan.
pub fn pick(_: waymark.Context) waymark.Decision {
    return .queue;
}

const testing = std.testing;

fn endpointOf(zone: []const u8, weight: u32) waymark.Endpoint {
    return .{ .id = .of(""), .address = .of(""), .zone = .of(zone), .weight = weight, .metadata = .of(&.{}) };
}

fn expectRotation(expected: []const u32, config: []const u8, zone: []const u8, endpoints: []const waymark.Endpoint) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const plan = try build(arena.allocator(), config, .{ .service = "svc", .zone = zone }, endpoints);
    try testing.expectEqualSlices(u32, expected, plan.rotation);
}

test "turns follow the weights and are spread out" {
    const weights = [_]waymark.Endpoint{ endpointOf("", 2), endpointOf("", 1), endpointOf("", 1), endpointOf("", 0) };
    try expectRotation(&.{ 0, 1, 0, 2 }, "{}", "", &weights);
    try expectRotation(&.{}, " {} ", "", &.{});
}

test "the own zone counts as often as is configured" {
    const zones = [_]waymark.Endpoint{ endpointOf("here", 1), endpointOf("there", 1) };
    try expectRotation(&.{ 0, 0, 0, 1 }, "{\"zone_factor\": 3}", "here", &zones);
    try expectRotation(&.{ 0, 1 }, "{\"zone_factor\": 3}", "", &zones);
}

test "a bad configuration is refused by the name of its field" {
    const no_object = "the configuration must be an object like {\"zone_factor\": 4}";
    for ([_][2][]const u8{
        .{ "{\"zone_factor\": 0}", "`zone_factor` must be a whole number from 1 to 100, not 0" },
        .{ "{\"zone_factor\": \"4\"}", "`zone_factor` must be a whole number from 1 to 100, not \"4\"" },
        .{ "{\"zone\": 1}", "unknown field `zone`; there is `zone_factor`" },
        .{ "", no_object },
        .{ "[]", no_object },
        .{ "{\"zone_factor\"", no_object },
        .{ "{\"zone_factor\": 3} x", no_object },
        .{ "{\"zone_factor\": 3,}", no_object },
    }) |case| {
        try testing.expectError(error.Refused, expectRotation(&.{}, case[0], "", &.{}));
        try testing.expectEqualStrings(case[1], waymark.refusal);
    }
}
