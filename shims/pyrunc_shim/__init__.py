# SPDX-License-Identifier: Apache-2.0
"""containerd-shim-pyrunc-v1: pyrunc as a runtime of containerd (io.containerd.pyrunc.v1)."""
