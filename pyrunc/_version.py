# SPDX-License-Identifier: Apache-2.0
"""The one place of the version; packaging, the command line and the features document read it."""

__version__ = "0.1.0"
