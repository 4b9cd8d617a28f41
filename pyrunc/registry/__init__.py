# SPDX-License-Identifier: Apache-2.0
"""Images: from a registry to a bundle, and back (image-spec 1.1, distribution-spec 1.1).

Nothing of the runtime imports this package; the `image` commands do, and a program may.
"""
