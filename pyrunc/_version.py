# SPDX-License-Identifier: Apache-2.0
"""The one place of the versions; packaging, the command line and the state document read it."""

__version__ = "0.1.0"
#: The version of the runtime-spec that is implemented.
OCI_VERSION = "1.3.0"
