// Crosses the border by hand: texts and lists are addresses and lengths in this module's memory, in UTF-8, outside of the garbage collector.
// asc cannot export a name with `:` and `#`: `waymark plugin component` gives the plain names here their whole ones.

import { build as buildPolicy, describe as describePolicy, pick as pickPolicy } from "./policy";
import { Context, DecisionKind, Endpoint, Scope, text, textAt, word } from "./waymark";

// What the host has written, or has been given an address of, until the next call.
const kept: usize[] = [];
// What an export answers, read by the host when it returns.
const answer = memory.data(64);

function keep(size: usize): usize {
  const block = heap.alloc(size);
  kept.push(block);
  return block;
}

function release(): void {
  while (kept.length > 0) heap.free(kept.pop());
}

export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  if (size == 0) return align;
  const made = keep(size);
  if (oldSize > 0) memory.copy(made, old, min(oldSize, size));
  return made;
}

function lend(to: usize, nth: usize, what: string): void {
  const length = String.UTF8.byteLength(what);
  const made = keep(length);
  String.UTF8.encodeUnsafe(changetype<usize>(what), what.length, made);
  lendBlock(to, nth, made, length);
}

function lendBlock(to: usize, nth: usize, block: usize, length: usize): void {
  store<u32>(to + 4 * nth, block);
  store<u32>(to + 4 * nth + 4, length);
}

export function describe(): usize {
  release();
  const about = describePolicy();
  const fields = keep(24 * about.fields.length);
  for (let i = 0; i < about.fields.length; i++) {
    lend(fields + 24 * i, 0, about.fields[i].name);
    lend(fields + 24 * i, 2, about.fields[i].defaultValue);
    lend(fields + 24 * i, 4, about.fields[i].doc);
  }
  lend(answer, 0, about.name);
  lend(answer, 2, about.version);
  lend(answer, 4, about.summary);
  lendBlock(answer, 6, fields, about.fields.length);
  lend(answer, 8, about.warning);
  return answer;
}

export function build(
  config: usize,
  configLength: usize,
  service: usize,
  serviceLength: usize,
  zone: usize,
  zoneLength: usize,
  list: usize,
  count: usize,
): usize {
  const scope = new Scope();
  scope.service = text(service, serviceLength);
  scope.zone = text(zone, zoneLength);
  const endpoints = new Array<Endpoint>();
  for (let i: usize = 0; i < count; i++) {
    const record = list + 36 * i;
    const endpoint = new Endpoint();
    endpoint.id = textAt(record, 0);
    endpoint.address = textAt(record, 2);
    endpoint.zone = textAt(record, 4);
    endpoint.weight = word(record, 6);
    const pairs = word(record, 7);
    for (let n: u32 = 0; n < word(record, 8); n++) endpoint.metadata.set(textAt(pairs + 16 * n, 0), textAt(pairs + 16 * n, 2));
    endpoints.push(endpoint);
  }
  const settings = text(config, configLength);
  release();
  const plan = buildPolicy(settings, scope, endpoints);
  if (plan.refusal != "") {
    store<u32>(answer, 1);
    lend(answer, 1, plan.refusal);
    return answer;
  }
  store<u32>(answer, 0);
  store<u32>(answer, plan.kind, 4);
  const entries = keep(4 * plan.entries.length);
  memory.copy(entries, plan.entries.dataStart, 4 * plan.entries.length);
  lendBlock(answer, 2, entries, plan.entries.length);
  return answer;
}

export function pick(sequence: u32, random0: u32, random1: u32, hasHash: bool, hash: u32, attempt: u32): usize {
  release();
  const context = new Context();
  context.sequence = sequence;
  context.random0 = random0;
  context.random1 = random1;
  context.hasHash = hasHash;
  context.hash = hash;
  context.attempt = attempt;
  const decision = pickPolicy(context);
  store<u32>(answer, decision.kind);
  if (decision.kind == DecisionKind.Fail || decision.kind == DecisionKind.Drop) lend(answer, 1, decision.message);
  else lendBlock(answer, 1, decision.a, decision.b);
  return answer;
}
