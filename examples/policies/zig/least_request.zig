//! my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//!
//! Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.

const std = @import("std");
const waymark = @import("waymark.zig");
const readInteger = @import("config.zig").readInteger;

const most_choices = 10;

// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at.
var receiving: []const u32 = &.{};
var choices: u32 = 2;

pub const panic = waymark.panic;

comptime {
    waymark.exportPolicy(@This());
}

pub const description: waymark.Description = .{
    .name = "my_policy",
    .version = "0.1.0",
    .summary = "The endpoint with the fewest calls in flight among a few chosen at random.",
    .fields = &.{.{
        .name = "choices",
        .default = "2",
        .doc = "how many endpoints are compared for each request, 2 to 10",
    }},
};

pub fn build(
    allocator: std.mem.Allocator,
    config: []const u8,
    _: waymark.Scope,
    endpoints: []const waymark.Endpoint,
) waymark.Error!waymark.Plan {
    choices = try readInteger(allocator, config, "choices", 2, most_choices, 2);
    var list: std.ArrayList(u32) = .empty;
    for (endpoints, 0..) |endpoint, index| {
        // A weight of 0 means: send it nothing.
        if (endpoint.weight > 0) try list.append(allocator, @intCast(index));
    }
    receiving = list.items;
    // Nobody to choose from: an empty plan lets the host say why.
    return if (receiving.len > 0) .each_request else .{ .rotation = &.{} };
}

/// A number below `below`, of a uniform random number.
fn scale(random: u32, below: u32) u32 {
    return @intCast(@as(u64, random) * below >> 32);
}

/// An endpoint that was chosen, with its load.
const Chosen = struct {
    endpoint: u32,
    load: u32 = 0,

    fn before(_: void, a: Chosen, b: Chosen) bool {
        return a.load < b.load;
    }
};

pub fn pick(context: waymark.Context) waymark.Decision {
    const n: u32 = @intCast(receiving.len);
    // Places at equal distances: two of them are any pair.
    const first = scale(context.random[0], n);
    const step = if (n > 1) 1 + scale(context.random[1], n - 1) else 0;
    var room: [most_choices]Chosen = undefined;
    var chosen: []Chosen = room[0..0];
    for (0..@min(choices, n)) |nth| {
        // Whoever was chosen already, or failed this same request, is passed over for the next.
        for (0..n) |offset| {
            const endpoint = receiving[(first + nth * step + offset) % n];
            if (contains(chosen, endpoint) or (context.attempt > 0 and waymark.host.tried(endpoint))) continue;
            chosen = room[0 .. chosen.len + 1];
            chosen[chosen.len - 1] = .{ .endpoint = endpoint };
            break;
        }
    }
    switch (chosen.len) {
        // Where everything was tried, a second try is better than none.
        0 => return .{ .endpoint = receiving[first] },
        1 => return .{ .endpoint = chosen[0].endpoint },
        2 => {},
        else => {
            for (chosen) |*one| one.load = waymark.host.inFlight(one.endpoint);
            // Stable: among equals the first drawn.
            std.sort.insertion(Chosen, chosen, {}, Chosen.before);
        },
    }
    return .{ .either = .{ chosen[0].endpoint, chosen[1].endpoint } };
}

fn contains(chosen: []const Chosen, endpoint: u32) bool {
    for (chosen) |one| if (one.endpoint == endpoint) return true;
    return false;
}

const testing = std.testing;

/// Builds for endpoints of these weights. What `pick` needs stays in the arena.
fn built(arena: *std.heap.ArenaAllocator, config: []const u8, weights: []const u32) !waymark.Plan {
    const endpoints = try arena.allocator().alloc(waymark.Endpoint, weights.len);
    for (endpoints, weights) |*endpoint, weight| {
        endpoint.* = .{ .id = .of(""), .address = .of(""), .zone = .of(""), .weight = weight, .metadata = .of(&.{}) };
    }
    return build(arena.allocator(), config, .{ .service = "svc", .zone = "" }, endpoints);
}

fn expectPick(expected: waymark.Decision, random: [2]u32, attempt: u32) !void {
    const context: waymark.Context = .{ .sequence = 0, .random = random, .hash = null, .attempt = attempt };
    try testing.expectEqual(expected, pick(context));
}

test "two are drawn and the host compares them" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    try testing.expectEqual(waymark.Plan.each_request, try built(&arena, "{}", &.{ 1, 1, 1, 1 }));
    try expectPick(.{ .either = .{ 0, 3 } }, .{ 0, std.math.maxInt(u32) }, 0);
}

test "of more the two least busy are left" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    _ = try built(&arena, "{\"choices\": 4}", &.{ 1, 1, 1, 1 });
    waymark.fake.in_flight = &.{ 9, 1, 7, 0 };
    try expectPick(.{ .either = .{ 3, 1 } }, .{ 1 << 30, 5 }, 0);
}

test "a further attempt goes elsewhere while there is anybody" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    _ = try built(&arena, "{}", &.{ 1, 0, 1 });
    waymark.fake.tried = &.{0};
    try expectPick(.{ .endpoint = 2 }, .{ 0, 0 }, 1);
    waymark.fake.tried = &.{ 0, 2 };
    try expectPick(.{ .endpoint = 0 }, .{ 0, 0 }, 1);
}

test "nobody is an empty plan" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    try testing.expectEqual(0, (try built(&arena, "{}", &.{0})).rotation.len);
    try testing.expectError(error.Refused, built(&arena, "{\"choices\": 11}", &.{}));
    try testing.expectEqualStrings("`choices` must be a whole number from 2 to 10, not 11", waymark.refusal);
}
