# SPDX-License-Identifier: Apache-2.0
"""Images and containers that have criu take one mount for another, or the runtime make something on the host.

What criu itself is to do needs a machine where it works: tests/vm/test_checkpoint_attacks_vm.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack, look, outside
from support import Bundle, Host, Runtime

#: What is given to be read is bound as it is.
CARELESS_BIND = """
from pyrunc import restore
from pyrunc.linux import mount as m
def careless(step, root):
    tree = m.open_tree(-100, step.source, recursive=step.options.recursive)
    m.move_mount(tree, root.make_target(step.unsafe_target, directory=True, pointer=step.pointer))
restore._bind = careless
"""


def images(path: Path) -> Path:
    """As far as the runtime looks at a checkpoint itself."""
    path.mkdir()
    (path / "descriptors.json").write_text('["/dev/null", "/dev/null", "/dev/null"]')
    return path


def restored(program: Runtime, bundle: Bundle, path: Path) -> str:
    """What is said of the restore, which can't work: criu finds no images."""
    result = program("restore", "--detach", "--image-path", path, "--bundle", bundle.save(), program.new_id())
    assert result.code == 1 and len(result.errors) == 1, result
    return result.err


@pytest.mark.attack("CVE-2026-119101's kind", "a link in the image leads a mount point into a volume that is only to "
                                              "be read, where it is made before a restore")
def test_cve_2026_119101_nothing_is_made_in_what_is_read(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                         weakened: Callable[[str], Runtime], tmp_path: Path) -> None:
    path, before = outside(tmp_path)
    bundle.mount(path, "/data", options=["bind", "ro"])
    bundle.mount(bundle.rootfs / "etc", "/other")
    (bundle.rootfs / "other").symlink_to("data/made")
    place = images(tmp_path / "images")

    def falls(program: Runtime) -> bool:
        said = restored(program, bundle, place)
        if program is runtime:
            assert "EROFS" in said and "/mounts/" in said, said
        made = path / "made"
        if not made.exists():
            return False
        made.rmdir()
        return True

    attack.on(runtime, falls(runtime))
    assert look(path) == before
    attack.on("pyrunc that binds it writable", falls(weakened(CARELESS_BIND)))


def test_cve_2026_119101_names_that_are_two(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """criu keeps `mnt[NAME]:VALUE`: ]: in a name would say where another mount comes from (crun: CVE-2026-115520)."""
    bundle.mount(tmp_path, "/other")
    (bundle.rootfs / "other").symlink_to("/data]:/somewhere/else")
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    result = runtime("checkpoint", "--image-path", tmp_path / "taken", container)
    assert result.code == 1 and "'/data]:/somewhere/else'" in result.err and "two names" in result.err, result
    assert runtime.state(container)["status"] == "running"
    said = restored(runtime, bundle, images(tmp_path / "given"))
    assert "'/data]:/somewhere/else'" in said and "two names" in said, said


def test_cve_2026_119101_links_from_one_mount_to_another(runtime: Runtime, bundle: Bundle, host: Host,
                                                         tmp_path: Path) -> None:
    """What config.json has at a path is mounted there, whatever links there are by now."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        bundle.mount(tmp_path / name, f"/{name}", options=["bind"])
    (bundle.rootfs / "one").mkdir()
    (bundle.rootfs / "other").symlink_to("one")  # a container that may write to its root has exchanged it
    said = restored(runtime, bundle, images(tmp_path / "images"))
    assert "/other leads to /one, where something else is mounted" in said, said
