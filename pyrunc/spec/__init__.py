# SPDX-License-Identifier: Apache-2.0
"""config.json: its schema, how it is read and checked, its defaults, what the runtime supports of it."""
