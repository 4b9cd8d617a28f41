# SPDX-License-Identifier: Apache-2.0
"""Foreign suites, real clients and other kernels, for any runtime path."""
