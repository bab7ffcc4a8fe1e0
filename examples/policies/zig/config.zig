//! Reads a configuration of one whole number.

const std = @import("std");
const waymark = @import("waymark.zig");

/// The object's field of this name, or the default. It refuses, with a sentence, what is anything but an object of this field with a whole
/// number in range.
pub fn readInteger(
    allocator: std.mem.Allocator,
    config: []const u8,
    name: []const u8,
    least: u32,
    most: u32,
    default: u32,
) waymark.Error!u32 {
    const found = findField(allocator, config, name) catch |failed| switch (failed) {
        error.Refused, error.OutOfMemory => |known| return known,
        else => return waymark.refuse("the configuration must be an object like {{\"{s}\": {d}}}", .{ name, default }),
    };
    const text = found orelse return default;
    const value = std.fmt.parseUnsigned(u32, text, 10) catch null;
    if (value) |number| if (number >= least and number <= most) return number;
    const shown = text[0..@min(text.len, 40)];
    return waymark.refuse("`{s}` must be a whole number from {d} to {d}, not {s}", .{ name, least, most, shown });
}

/// The value's text; null when the field is not there.
fn findField(allocator: std.mem.Allocator, config: []const u8, name: []const u8) !?[]const u8 {
    var scanner = std.json.Scanner.initCompleteInput(allocator, config);
    var found: ?[]const u8 = null;
    if (try scanner.next() != .object_begin) return error.SyntaxError;
    while (try scanner.peekNextTokenType() != .object_end) {
        const field = switch (try scanner.nextAlloc(allocator, .alloc_if_needed)) {
            inline .string, .allocated_string => |field| field,
            else => return error.SyntaxError,
        };
        if (!std.mem.eql(u8, field, name))
            return waymark.refuse("unknown field `{s}`; there is `{s}`", .{ field[0..@min(field.len, 60)], name });
        _ = try scanner.peekNextTokenType(); // goes on to the value
        const start = scanner.cursor;
        try scanner.skipValue();
        found = config[start..scanner.cursor];
    }
    _ = try scanner.next();
    if (try scanner.next() != .end_of_document) return error.SyntaxError;
    return found;
}
