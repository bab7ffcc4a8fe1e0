//! The interface waymark:plugin@0.1.1 in Zig. What it means is in wit/. Texts and lists cross the border as they lie in memory: an
//! `extern struct` of addresses and lengths has the layout that the component model asks for, so that nothing is copied.

const std = @import("std");
const is_wasm = @import("builtin").target.cpu.arch.isWasm();

/// A list that lies in memory; the host's are there until `build` ends.
pub fn List(comptime T: type) type {
    return extern struct {
        ptr: [*]const T,
        len: usize,

        /// An empty slice may point anywhere, and the host takes no address outside of the memory.
        pub fn of(items: []const T) @This() {
            return .{ .ptr = if (items.len > 0) items.ptr else @ptrFromInt(@alignOf(T)), .len = items.len };
        }

        pub fn slice(list: @This()) []const T {
            return list.ptr[0..list.len];
        }
    };
}

pub const Text = List(u8);

/// One endpoint of a service. Elsewhere it goes by its index in the list that `build` got.
pub const Endpoint = extern struct {
    id: Text,
    address: Text,
    /// Empty when it is unknown.
    zone: Text,
    /// Its share relative to the others; 0 means: send it nothing.
    weight: u32,
    metadata: List(extern struct { key: Text, value: Text }),
};

/// What a policy balances for.
pub const Scope = struct {
    service: []const u8,
    /// Of this node; empty when it was not told.
    zone: []const u8,
};

/// One field of the configuration. The default is JSON; empty when it must be given.
pub const Field = struct { name: []const u8, default: []const u8, doc: []const u8 };

/// What a policy says of itself: a `pub const description` of the root file.
pub const Description = struct {
    name: []const u8,
    version: []const u8,
    summary: []const u8,
    fields: []const Field = &.{},
    warning: []const u8 = "",
};

/// What `build` answers.
pub const Plan = union(enum(u32)) {
    /// Walked for ever, one entry a request.
    rotation: []const u32,
    /// The entry at (hash of the request's key) modulo the length.
    hash_table: []const u32,
    /// `pick` is called for every request.
    each_request,
};

/// What differs from one request to the next.
pub const Context = struct {
    sequence: u32,
    random: [2]u32,
    /// Of the request's key; null when it has none.
    hash: ?u32,
    /// 0 for a request's first attempt.
    attempt: u32,
};

/// What becomes of a request.
pub const Decision = union(enum(u32)) {
    endpoint: u32,
    /// The one of the two with less load.
    either: [2]u32,
    /// Held until the next snapshot or policy.
    queue,
    /// Answered UNAVAILABLE with this message.
    fail: []const u8,
    /// So too whatever the call says, and never retried.
    drop: []const u8,
};

/// Why `build` answers no plan.
pub const Error = error{ Refused, OutOfMemory };

/// What was said with `error.Refused`.
pub var refusal: []const u8 = "";
var refusal_room: [400]u8 = undefined;

/// Refuses a configuration, with a sentence that names the field; what does not fit is cut.
pub fn refuse(comptime sentence: []const u8, values: anytype) error{Refused} {
    var writer = std.Io.Writer.fixed(&refusal_room);
    writer.print(sentence, values) catch {};
    refusal = writer.buffered();
    return error.Refused;
}

/// How much a message to the host's log matters.
pub const Level = enum(u32) { debug, info, warn, @"error" };

/// What an instance said last of its own load. A figure that it did not give is 0.
pub const LoadReport = extern struct {
    /// The part of its processor time that is used; may be over 1.
    cpu_utilization: f64 = 0,
    /// The part of its memory that is used.
    memory_utilization: f64 = 0,
    /// How much it is used by its own measure; may be over 1.
    application_utilization: f64 = 0,
    /// Calls a second that it serves, of all its clients.
    rps: f64 = 0,
    /// Calls a second of these that it answers with an error.
    eps: f64 = 0,
    /// How long ago the report came, in milliseconds.
    age_ms: u32 = 0,
};

/// What may be asked while `pick` runs. In a test it is what the test put into `fake`.
pub const host = if (is_wasm) struct {
    pub fn path() []const u8 {
        var said: Text = undefined;
        imports.path(&said);
        return said.slice();
    }

    pub fn header(name: []const u8) ?[]const u8 {
        var said: extern struct { is_some: u8, value: Text } = undefined;
        const asked: Text = .of(name);
        imports.header(asked.ptr, asked.len, &said);
        return if (said.is_some != 0) said.value.slice() else null;
    }

    pub fn tried(endpoint: u32) bool {
        return imports.tried(endpoint) != 0;
    }

    pub fn inFlight(endpoint: u32) u32 {
        return imports.@"in-flight"(endpoint);
    }

    pub fn latencyUs(endpoint: u32) u32 {
        return imports.@"latency-us"(endpoint);
    }

    /// The part of its calls that failed of late, from 0 to 1.
    pub fn failureRate(endpoint: u32) f64 {
        return imports.@"failure-rate"(endpoint);
    }

    /// Null when the instance never spoke of its load.
    pub fn report(endpoint: u32) ?LoadReport {
        var said: extern struct { is_some: u8, value: LoadReport } = undefined;
        imports.report(endpoint, &said);
        return if (said.is_some != 0) said.value else null;
    }

    /// A figure of its own that its last report named; null when that did not.
    pub fn metric(endpoint: u32, name: []const u8) ?f64 {
        var said: extern struct { is_some: u8, value: f64 } = undefined;
        const asked: Text = .of(name);
        imports.metric(endpoint, asked.ptr, asked.len, &said);
        return if (said.is_some != 0) said.value else null;
    }

    pub fn log(level: Level, message: []const u8) void {
        const text: Text = .of(message);
        imports.log(level, text.ptr, text.len);
    }
} else struct {
    pub fn path() []const u8 {
        return fake.path;
    }

    pub fn header(_: []const u8) ?[]const u8 {
        return fake.header;
    }

    pub fn tried(endpoint: u32) bool {
        return std.mem.indexOfScalar(u32, fake.tried, endpoint) != null;
    }

    pub fn inFlight(endpoint: u32) u32 {
        return if (endpoint < fake.in_flight.len) fake.in_flight[endpoint] else 0;
    }

    pub fn latencyUs(_: u32) u32 {
        return 0;
    }

    pub fn failureRate(_: u32) f64 {
        return 0;
    }

    pub fn report(endpoint: u32) ?LoadReport {
        return if (endpoint < fake.reports.len) fake.reports[endpoint] else null;
    }

    pub fn metric(_: u32, _: []const u8) ?f64 {
        return null;
    }

    pub fn log(_: Level, _: []const u8) void {}
};

/// What `host` answers in a test.
pub var fake: struct {
    path: []const u8 = "",
    header: ?[]const u8 = null,
    tried: []const u32 = &.{},
    in_flight: []const u32 = &.{},
    reports: []const ?LoadReport = &.{},
} = .{};

const imports = struct {
    extern "waymark:plugin/request@0.1.1" fn path(said: *anyopaque) void;
    extern "waymark:plugin/request@0.1.1" fn header(name: [*]const u8, len: usize, said: *anyopaque) void;
    extern "waymark:plugin/request@0.1.1" fn tried(endpoint: u32) u32;
    extern "waymark:plugin/load@0.1.1" fn @"in-flight"(endpoint: u32) u32;
    extern "waymark:plugin/load@0.1.1" fn @"latency-us"(endpoint: u32) u32;
    extern "waymark:plugin/load@0.1.1" fn @"failure-rate"(endpoint: u32) f64;
    extern "waymark:plugin/load@0.1.1" fn report(endpoint: u32, said: *anyopaque) void;
    extern "waymark:plugin/load@0.1.1" fn metric(endpoint: u32, name: [*]const u8, len: usize, said: *anyopaque) void;
    extern "waymark:plugin/log@0.1.1" fn log(level: Level, message: [*]const u8, len: usize) void;
};

/// Lets the host log what a panic said; the trap that follows says only "unreachable".
pub const panic = std.debug.FullPanic(struct {
    fn panic(message: []const u8, _: ?usize) noreturn {
        host.log(.@"error", message);
        @trap();
    }
}.panic);

/// Makes a component of a policy: its `description`, `build` and `pick`. In a test it does nothing.
pub fn exportPolicy(comptime policy: type) void {
    if (!is_wasm) return;
    const Exports = Exported(policy);
    @export(&Exports.realloc, .{ .name = "cabi_realloc" });
    @export(&Exports.describe, .{ .name = "waymark:plugin/balancer@0.1.1#describe" });
    @export(&Exports.build, .{ .name = "waymark:plugin/balancer@0.1.1#build" });
    @export(&Exports.pick, .{ .name = "waymark:plugin/balancer@0.1.1#pick" });
}

fn Exported(comptime policy: type) type {
    return struct {
        // What `build` allocates stays until the next `build`; what the host writes, until the next call that gets something from it.
        var kept = std.heap.ArenaAllocator.init(std.heap.wasm_allocator);
        var lent = std.heap.ArenaAllocator.init(std.heap.wasm_allocator);

        // What an export answers, read by the host when it returns.
        var answer: [10]u32 = undefined;

        fn realloc(old: [*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) [*]u8 {
            if (size == 0) return @ptrFromInt(alignment);
            const made = lent.allocator().rawAlloc(size, .fromByteUnits(alignment), 0) orelse @panic("out of memory");
            @memcpy(made[0..@min(old_size, size)], old[0..@min(old_size, size)]);
            return made;
        }

        fn lend(at: usize, comptime T: type, list: []const T) void {
            answer[at] = @intFromPtr(List(T).of(list).ptr);
            answer[at + 1] = list.len;
        }

        const fields = fields: {
            var made: [policy.description.fields.len][3]Text = undefined;
            for (&made, policy.description.fields) |*to, field| {
                to.* = .{ .of(field.name), .of(field.default), .of(field.doc) };
            }
            const done = made;
            break :fields done;
        };

        fn describe() callconv(.c) *const [10]u32 {
            const about: Description = policy.description;
            lend(0, u8, about.name);
            lend(2, u8, about.version);
            lend(4, u8, about.summary);
            lend(6, [3]Text, &fields);
            lend(8, u8, about.warning);
            return &answer;
        }

        fn build(
            config: [*]const u8,
            config_len: usize,
            service: [*]const u8,
            service_len: usize,
            zone: [*]const u8,
            zone_len: usize,
            endpoints: [*]const Endpoint,
            count: usize,
        ) callconv(.c) *const [10]u32 {
            _ = kept.reset(.retain_capacity);
            const scope: Scope = .{ .service = service[0..service_len], .zone = zone[0..zone_len] };
            if (policy.build(kept.allocator(), config[0..config_len], scope, endpoints[0..count])) |plan| {
                answer[0] = 0;
                answer[1] = @backingInt(plan);
                switch (plan) {
                    .rotation, .hash_table => |entries| lend(2, u32, entries),
                    .each_request => {},
                }
            } else |failed| {
                if (failed == error.OutOfMemory) @panic("out of memory");
                answer[0] = 1;
                lend(1, u8, refusal);
            }
            return &answer;
        }

        fn pick(
            sequence: u32,
            random0: u32,
            random1: u32,
            has_hash: u32,
            hash: u32,
            attempt: u32,
        ) callconv(.c) *const [10]u32 {
            _ = lent.reset(.retain_capacity);
            const decision: Decision = policy.pick(.{
                .sequence = sequence,
                .random = .{ random0, random1 },
                .hash = if (has_hash != 0) hash else null,
                .attempt = attempt,
            });
            answer[0] = @backingInt(decision);
            switch (decision) {
                .endpoint => |endpoint| answer[1] = endpoint,
                .either => |two| answer[1..3].* = two,
                .queue => {},
                .fail, .drop => |message| lend(1, u8, message),
            }
            return &answer;
        }
    };
}
