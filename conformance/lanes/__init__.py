# SPDX-License-Identifier: Apache-2.0
"""The lanes: each a real client with a runtime below it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conformance import checks
from conformance.errors import Failed, TooLate, Unavailable
from conformance.sandbox import Room

LANES = {
    "podman": "Podman, as root and as an ordinary user",
    "docker": "dockerd, docker build, a swarm of two",
    "buildah": "buildah bud, from and run",
    "buildkit": "buildkitd with its OCI worker, and buildctl (built programs, by --clients)",
    "containerd": "containerd with its own shim (io.containerd.runc.v2), and CRI",
    "containerd-native": "containerd with pyrunc's shim (io.containerd.pyrunc.v1)",
    "crio": "CRI-O with conmon: pods through CRI (built programs, by --clients)",
    "kubernetes": "kubelet, control plane and kubectl above containerd, by a RuntimeClass",
    "kubernetes-native": "the same with pyrunc's shim",
    "nerdctl": "nerdctl above containerd 2 (built programs, by --clients)",
    "runtime-tools": "the validation programs of opencontainers/runtime-tools",
}


def main(room: Room, words: Sequence[str], report: Callable[[Mapping[str, Any]], object]) -> int:
    """In the sandbox: run one lane with one runtime; 0 if everything passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lane")
    parser.add_argument("runtime")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--suite", default="")
    parser.add_argument("--clients", default="")
    args = parser.parse_args(words)
    if args.clients:
        room.environment["PATH"] = f"{args.clients}:{room.environment['PATH']}"
    module = importlib.import_module(f"conformance.lanes.{args.lane.replace('-', '_')}")
    lane = module.make(room, args.runtime, args.suite)
    passed = True
    try:
        with checks.limit(120):
            lane.start()
        for row in checks.run(lane, lane.table().chosen(short=args.short, only=args.only), lane.clean):
            passed = passed and row["passed"]
            report(row)
    except (Failed, TooLate) as error:
        raise Unavailable(f"{args.lane}: it doesn't start: {error}") from None
    finally:
        with checks.limit(120):
            lane.stop()
    return 0 if passed else 1
