"""Writes vectors.json: what the published hashing algorithms answer, worked out without any of this repository's code.

    pip install xxhash && python make.py > vectors.json

Maglev: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, pseudocode 1,
with the weights and hashes of Envoy (source/extensions/load_balancing_policies/maglev/maglev_lb.cc): offset = XXH64(name, 0) mod M,
skip = XXH64(name, 1) mod (M - 1) + 1; an endpoint takes its turn in an iteration once iteration * weight has reached its target.
Ring: Envoy (ring_hash_lb.cc) and gRPC proposal A42: points XXH64(name + "_" + number), as many as the scaled weight says.
Both with endpoints in the order of their names, as gRPC sorts them. Weights are floats divided by their sum, as in both products.
"""

import bisect
import json
import math
import struct

import xxhash


def xxh64(text, seed=0):
    return xxhash.xxh64_intdigest(text.encode(), seed)


def normalized(endpoints):
    total = sum(weight for _, weight in endpoints)
    return [(name, weight / total) for name, weight in sorted(endpoints)]


def maglev(endpoints, size):
    """Names by slot."""
    hosts = normalized(endpoints)
    greatest = max(weight for _, weight in hosts)
    state = [[xxh64(name) % size, xxh64(name, 1) % (size - 1) + 1, 0, 0.0] for name, _ in hosts]
    table, filled, iteration = [None] * size, 0, 0
    while filled < size:
        iteration += 1
        for (name, weight), entry in zip(hosts, state):
            if filled == size:
                break
            offset, skip, following, target = entry
            if iteration * weight < target:
                continue
            entry[3] = target + greatest
            while table[(offset + skip * following) % size] is not None:
                following += 1
            table[(offset + skip * following) % size] = name
            entry[2] = following + 1
            filled += 1
    return table


def ring(endpoints, minimum, maximum):
    """(hash, name), sorted."""
    hosts = normalized(endpoints)
    least = min(weight for _, weight in hosts)
    scale = min(math.ceil(least * minimum) / least, float(maximum))
    points, current, target = [], 0.0, 0.0
    for name, weight in hosts:
        target += scale * weight
        number = 0
        while current < target:
            points.append((xxh64(f"{name}_{number}"), name))
            number += 1
            current += 1
    return sorted(points)


def on_ring(points, key):
    """The first point at or after the key, else the first of all."""
    at = bisect.bisect_left(points, (key, ""))
    return points[at % len(points)][1]


def digest(numbers, form):
    return f"{xxhash.xxh64_intdigest(b''.join(struct.pack(form, number) for number in numbers)):016x}"


def addresses(count, weights):
    return [(f"192.0.2.{n + 1}:8080", weights[n % len(weights)]) for n in range(count)]


def main():
    texts = ["", "a", "192.0.2.1:8080", "192.0.2.1:8080_0", "waymark" * 6]
    sets = {
        "three alike": addresses(3, [1]),
        "weights 1, 2, 4": addresses(3, [1, 2, 4]),
        "ten, weights 1 to 5": addresses(10, [1, 2, 3, 4, 5]),
        "fifty alike": addresses(50, [1]),
        "by name and not by place": [("zeta", 3), ("alpha", 7), ("mid", 10)],
    }
    maglevs, rings = [], []
    for what, endpoints in sets.items():
        index = {name: at for at, (name, _) in enumerate(endpoints)}
        for size in [13, 251, 65537] if len(endpoints) < 13 else [65537]:
            table = [index[name] for name in maglev(endpoints, size)]
            maglevs.append({
                "what": what, "endpoints": endpoints, "size": size,
                "first": table[:32], "counts": [table.count(at) for at in range(len(endpoints))],
                "digest": digest(table, "<I"),
            })
        for minimum, maximum in [(10, 20), (1024, 4096), (4096, 4096), (100, 40)]:
            if minimum > maximum:
                minimum = maximum
            points = ring(endpoints, minimum, maximum)
            keys = [xxh64(f"key {n}") for n in range(12)] + [0, 2**64 - 1, points[0][0], points[-1][0], points[-1][0] + 1]
            rings.append({
                "what": what, "endpoints": endpoints, "min": minimum, "max": maximum, "points": len(points),
                "first": [[f"{point:016x}", index[name]] for point, name in points[:8]],
                "digest": digest([x for point, name in points for x in (point, index[name])], "<Q"),
                "keys": [[f"{key:016x}", index[on_ring(points, key)]] for key in keys],
            })
    hashes = [[text, seed, f"{xxh64(text, seed):016x}"] for text in texts for seed in (0, 1)]
    lines = lambda entries: "[\n" + ",\n".join("  " + json.dumps(entry) for entry in entries) + "\n]"
    print('{"xxh64": ' + lines(hashes) + ',\n"maglev": ' + lines(maglevs) + ',\n"ring": ' + lines(rings) + "}")


main()
