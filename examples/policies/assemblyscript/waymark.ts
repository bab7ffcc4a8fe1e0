// The interface waymark:plugin@0.1.1 in AssemblyScript. What it means is in wit/; border.ts crosses the border.

/** One endpoint of a service. Elsewhere it goes by its index in the list that `build` got. */
export class Endpoint {
  id: string = "";
  address: string = "";
  /** Empty when it is unknown. */
  zone: string = "";
  /** Its share relative to the others; 0 means: send it nothing. */
  weight: u32 = 1;
  metadata: Map<string, string> = new Map();
}

/** What a policy balances for: the service, and the zone of this node (empty when it was not told). */
export class Scope {
  service: string = "";
  zone: string = "";
}

/** One field of the configuration. The default is JSON; empty when it must be given. */
export class Field {
  constructor(
    public name: string,
    public defaultValue: string,
    public doc: string,
  ) {}
}

/** What a policy says of itself. */
export class Description {
  constructor(
    public name: string,
    public version: string,
    public summary: string,
    public fields: Field[],
    public warning: string = "",
  ) {}
}

export enum PlanKind {
  Rotation,
  HashTable,
  EachRequest,
}

/** What `build` answers: a plan, or a refusal that is shown to people. */
export class Plan {
  private constructor(
    public kind: PlanKind,
    public entries: u32[],
    public refusal: string = "",
  ) {}

  /** The list is walked for ever, one entry a request. */
  static rotation(entries: u32[]): Plan {
    return new Plan(PlanKind.Rotation, entries);
  }

  /** The entry at (hash of the request's key) modulo the length. */
  static hashTable(entries: u32[]): Plan {
    return new Plan(PlanKind.HashTable, entries);
  }

  /** `pick` is called for every request. */
  static eachRequest(): Plan {
    return new Plan(PlanKind.EachRequest, []);
  }

  static refuse(sentence: string): Plan {
    return new Plan(PlanKind.Rotation, [], sentence);
  }
}

/** What differs from one request to the next. */
export class Context {
  sequence: u32 = 0;
  /** Two uniform random numbers. */
  random0: u32 = 0;
  random1: u32 = 0;
  /** Of the request's key, if it has one. */
  hasHash: bool = false;
  hash: u32 = 0;
  /** 0 for a request's first attempt. */
  attempt: u32 = 0;
}

export enum DecisionKind {
  Endpoint,
  Either,
  Queue,
  Fail,
  Drop,
}

/** What becomes of a request. */
export class Decision {
  private constructor(
    public kind: DecisionKind,
    public a: u32 = 0,
    public b: u32 = 0,
    public message: string = "",
  ) {}

  static endpoint(index: u32): Decision {
    return new Decision(DecisionKind.Endpoint, index);
  }

  /** The one of the two with less load. */
  static either(a: u32, b: u32): Decision {
    return new Decision(DecisionKind.Either, a, b);
  }

  /** Held until the next snapshot or policy. */
  static queue(): Decision {
    return new Decision(DecisionKind.Queue);
  }

  /** Answered UNAVAILABLE with this message. */
  static fail(message: string): Decision {
    return new Decision(DecisionKind.Fail, 0, 0, message);
  }

  /** So too whatever the call says, and never retried. */
  static drop(message: string): Decision {
    return new Decision(DecisionKind.Drop, 0, 0, message);
  }
}

// What may be asked while `pick` runs.

@external("waymark:plugin/request@0.1.1", "tried")
export declare function tried(endpoint: u32): bool;

@external("waymark:plugin/load@0.1.1", "in-flight")
export declare function inFlight(endpoint: u32): u32;

@external("waymark:plugin/load@0.1.1", "latency-us")
export declare function latencyUs(endpoint: u32): u32;

/** The part of its calls that failed of late, from 0 to 1. */
@external("waymark:plugin/load@0.1.1", "failure-rate")
export declare function failureRate(endpoint: u32): f64;

@external("waymark:plugin/load@0.1.1", "report")
declare function loadReport(endpoint: u32, said: usize): void;

@external("waymark:plugin/load@0.1.1", "metric")
declare function loadMetric(endpoint: u32, name: usize, length: usize, said: usize): void;

@external("waymark:plugin/request@0.1.1", "path")
declare function requestPath(said: usize): void;

@external("waymark:plugin/request@0.1.1", "header")
declare function requestHeader(name: usize, length: usize, said: usize): void;

@external("waymark:plugin/log@0.1.1", "log")
declare function hostLog(level: u32, message: usize, length: usize): void;

const said = memory.data(56, 8);

/** The gRPC path. */
export function path(): string {
  requestPath(said);
  return textAt(said, 0);
}

/** A header's first value; null when it is not there. */
export function header(name: string): string | null {
  const asked = String.UTF8.encode(name);
  requestHeader(changetype<usize>(asked), asked.byteLength, said);
  return load<u8>(said) == 0 ? null : textAt(said, 1);
}

/** What an instance said last of its own load. A figure that it did not give is 0. */
export class LoadReport {
  /** The part of its processor time that is used; may be over 1. */
  cpuUtilization: f64 = 0;
  /** The part of its memory that is used. */
  memoryUtilization: f64 = 0;
  /** How much it is used by its own measure; may be over 1. */
  applicationUtilization: f64 = 0;
  /** Calls a second that it serves, of all its clients. */
  rps: f64 = 0;
  /** Calls a second of these that it answers with an error. */
  eps: f64 = 0;
  /** How long ago the report came, in milliseconds. */
  ageMs: u32 = 0;
}

/** What an instance said last of its own load; null when it never did. */
export function report(endpoint: u32): LoadReport | null {
  loadReport(endpoint, said);
  if (load<u8>(said) == 0) return null;
  const made = new LoadReport();
  made.cpuUtilization = load<f64>(said, 8);
  made.memoryUtilization = load<f64>(said, 16);
  made.applicationUtilization = load<f64>(said, 24);
  made.rps = load<f64>(said, 32);
  made.eps = load<f64>(said, 40);
  made.ageMs = load<u32>(said, 48);
  return made;
}

/** A figure of its own that its last report named; no number when that did not: ask `isNaN`. */
export function metric(endpoint: u32, name: string): f64 {
  const asked = String.UTF8.encode(name);
  loadMetric(endpoint, changetype<usize>(asked), asked.byteLength, said);
  return load<u8>(said) == 0 ? NaN : load<f64>(said, 8);
}

export enum Level {
  Debug,
  Info,
  Warn,
  Error,
}

/** A message to the host's log. */
export function log(level: Level, message: string): void {
  const bytes = String.UTF8.encode(message);
  hostLog(level, changetype<usize>(bytes), bytes.byteLength);
}

// Where something is thrown or an `assert` fails: the host logs what it was; the trap that follows says only "unreachable".
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const what = message === null ? "abort" : message;
  const where = file === null ? "" : file;
  log(Level.Error, `${what} at ${where}:${line}:${column}`);
  unreachable();
}

// What lies in memory as the interface has it: words of 32 bits, texts in UTF-8.

export function word(address: usize, nth: usize): u32 {
  return load<u32>(address + 4 * nth);
}

export function text(address: usize, length: usize): string {
  return String.UTF8.decodeUnsafe(address, length);
}

/** The text that these two words tell of. */
export function textAt(address: usize, nth: usize): string {
  return text(word(address, nth), word(address, nth + 1));
}
