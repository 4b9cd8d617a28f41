# SPDX-License-Identifier: Apache-2.0
"""The only door to the kernel: one thin function a system call, constants, no policy.

Imports nothing of pyrunc outside this package.  Every function raises OSError, with the name of
the call in its `syscall` attribute.
"""
