"""Texts read once and kept, in memory or in a file, against reading them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config

from preface.backbones import contexts
from preface.backbones.base import Backbone, Context, size_in_bytes
from preface.backbones.contexts import Inputs
from preface.backbones.load import dtype_name, load_backbone
from preface.errors import UserError
from preface.prompts import Prompts
from tests.backbones.test_t5 import only, random_prompts
from tests.conftest import close

IDS = [[7, 8, 9, 1], [300, 1], [11, 12, 13, 14, 15, 16, 1], [1], [300, 301, 1]]
BYTES = sum(map(len, IDS)) * 24 * 4
"""Of all their states in float32."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input is encoded by itself."""
    monkeypatch.setattr(contexts, "BLOCK", 1)


@pytest.fixture
def load(checkpoint_folder: Path, tiny: Backbone) -> Callable[[], Backbone]:
    """As another run would: nothing is kept in memory."""
    return lambda: load_backbone(checkpoint_folder, dtype=dtype_name(tiny.dtype), device="cpu")


@pytest.fixture
def fresh(load: Callable[[], Backbone]) -> Backbone:
    return load()


@pytest.fixture
def in_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is small enough for memory; the folder of the files."""
    monkeypatch.setattr(contexts, "IN_MEMORY", 0)
    monkeypatch.setattr(contexts, "SAVE_EVERY", 1)
    monkeypatch.setenv("PREFACE_CACHE", str(tmp_path))
    return tmp_path / "contexts"


def count_read(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of every input that the backbone reads from now on."""
    seen: list[list[int]] = []
    read = backbone.read

    def counted(ids: Tensor, mask: Tensor, *prompts: Any) -> Context:
        seen.extend(row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True))
        return read(ids, mask, *prompts)

    monkeypatch.setattr(backbone, "read", counted)
    return seen


def assert_read(context: Context, backbone: Backbone, ids: Sequence[Sequence[int]]) -> None:
    """States and mask are the encoder's own, of each input alone."""
    assert context.mask.sum(1).tolist() == [len(item) for item in ids]
    for row, item in enumerate(ids):
        with torch.no_grad():
            alone = backbone.read(*backbone.pad([item]))
        assert context.mask[row, : len(item)].all()
        close(backbone, context.states[row, : len(item)], alone.states[0])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.precision
def test_states_read_are_states_encoded(fresh: Backbone) -> None:
    inputs = Inputs(fresh, IDS, keep=True)
    for places in ([2, 0], [0, 1, 3], [4], [3, 3, 2, 1, 0, 4]):
        context = inputs.read(places)
        assert context.states.shape[1] == max(len(IDS[place]) for place in places)
        assert_read(context, fresh, [IDS[place] for place in places])


@pytest.mark.precision
def test_padding_is_finite(fresh: Backbone) -> None:
    assert Inputs(fresh, IDS, keep=True).read([2, 3]).states.isfinite().all()


@pytest.mark.precision
def test_kept_or_not_the_losses_are_the_same(fresh: Backbone) -> None:
    answers, labels = torch.tensor([[0, 40], [0, 50], [0, 60]]), torch.tensor([[40, 1], [50, 1], [60, 1]])
    plain, kept = (Inputs(fresh, IDS, keep=keep).read([0, 2, 3]) for keep in (False, True))
    close(fresh, fresh.losses(kept, answers, labels), fresh.losses(plain, answers, labels))


def test_each_input_is_encoded_once(fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_read(fresh, monkeypatch)
    inputs = Inputs(fresh, IDS, keep=True)
    for places in ([0, 1, 0], [1, 2], [2, 1, 0]):
        inputs.read(places)
    assert sorted(seen) == sorted(IDS[:3])
    Inputs(fresh, [list(item) for item in IDS], keep=True).read([4, 3, 2, 1, 0])
    assert sorted(seen) == sorted(IDS)


def test_each_input_is_encoded_at_each_call_unless_kept(fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_read(fresh, monkeypatch)
    inputs = Inputs(fresh, IDS)
    inputs.read([0, 0])
    inputs.read([0])
    assert seen == [IDS[0]] * 2  # once a call, however many rows want it
    assert not fresh.kept


@pytest.mark.parametrize(
    "others",
    [IDS[::-1], [*IDS[:-1], [300, 302, 1]], IDS[:-1], [[7, 8], [9, 1], *IDS[1:]]],
    ids=["another order", "another id", "fewer", "cut elsewhere"],
)
def test_other_inputs_are_another_entry(
    others: list[list[int]], fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    Inputs(fresh, IDS, keep=True).read(range(len(IDS)))
    seen = count_read(fresh, monkeypatch)
    context = Inputs(fresh, others, keep=True).read(range(len(others)))
    assert len(seen) == len(others)
    assert len(fresh.kept) == 2
    assert_read(context, fresh, others)


@pytest.mark.parametrize("sites", [("embeddings",), ("encoder",), ("embeddings", "encoder", "decoder", "cross")])
def test_prompts_that_touch_the_encoder_read_nothing_kept(
    sites: tuple[str, ...], fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = random_prompts(fresh, size=1)
    prompts = Prompts({name: item for site in sites for name, item in only(whole, site).tensors.items()})
    inputs = Inputs(fresh, IDS, keep=True)
    inputs.read([0, 2])
    seen = count_read(fresh, monkeypatch)
    context = inputs.read([0, 2], prompts)
    assert seen == [IDS[0], IDS[2]]
    expected = fresh.read(*fresh.pad([IDS[0], IDS[2]]), prompts)
    torch.testing.assert_close(context.states, expected.states)
    assert torch.equal(context.mask, expected.mask)
    assert_read(inputs.read([0, 2]), fresh, [IDS[0], IDS[2]])


def test_prompts_of_the_decoder_read_what_is_kept(fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = random_prompts(fresh, size=1)
    inputs = Inputs(fresh, IDS, keep=True)
    inputs.read([0, 2])
    seen = count_read(fresh, monkeypatch)
    inputs.read([0, 2], Prompts({**only(whole, "decoder").tensors, **only(whole, "cross").tensors}))
    assert not seen


@pytest.mark.precision
@pytest.mark.parametrize("keep", [True, False])
def test_repeated_inputs_stand_there_again(keep: bool, fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, count = Inputs(fresh, IDS, keep=keep), len(IDS)
    thrice = inputs.repeated(3)
    assert (len(thrice), len(inputs)) == (3 * count, count)
    assert thrice.lengths == [len(item) for item in IDS * 3]
    ids, mask = thrice.padded([0, count + 1, 2 * count + 2])
    assert [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)] == IDS[:3]
    seen = count_read(fresh, monkeypatch)
    context = thrice.read([0, count, 2 * count, 2 * count + 1])
    assert len(seen) == 2
    assert_read(context, fresh, [IDS[0], IDS[0], IDS[0], IDS[1]])


@pytest.mark.precision
@pytest.mark.parametrize("storage", ["memory", "file"])
def test_states_made_in_inference_mode_can_be_trained_with(
    storage: str, fresh: Backbone, request: pytest.FixtureRequest
) -> None:
    if storage == "file":
        request.getfixturevalue("in_file")
    with torch.inference_mode():
        inputs = Inputs(fresh, IDS, keep=True)
        inputs.read([0, 1])
    prompts = only(random_prompts(fresh, size=1), "decoder")
    keys = prompts.tensors["decoder.keys"].requires_grad_(True)
    context = inputs.read([0, 2], prompts)
    answers, labels = torch.tensor([[0, 40], [0, 50]]), torch.tensor([[40, 1], [50, 1]])
    fresh.losses(context, answers, labels, prompts).sum().backward()
    assert all(layer.any() for layer in keys.grad[0])


def test_small_inputs_leave_no_file(fresh: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFACE_CACHE", str(tmp_path))
    Inputs(fresh, IDS, keep=True).read([0])
    assert not list(tmp_path.iterdir())


def test_the_oldest_leave_memory_when_it_is_full(fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "IN_MEMORY", BYTES)  # times four for all
    several = [[[number, *item] for item in IDS] for number in range(2, 6)]
    inputs = Inputs(fresh, IDS, keep=True)
    inputs.read([0])
    for ids in several:
        Inputs(fresh, ids, keep=True)
    assert len(fresh.kept) < 5
    assert sum(kept.bytes for kept in fresh.kept.values()) <= 4 * BYTES
    seen = count_read(fresh, monkeypatch)
    assert_read(inputs.read([0]), fresh, [IDS[0]])  # who still has them may use them
    assert len(seen) == 1  # by the comparison
    Inputs(fresh, IDS, keep=True).read([0])
    assert len(seen) == 2


@pytest.mark.precision
def test_a_later_run_finds_the_file(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    Inputs(first, IDS, keep=True).read([0, 1, 2])
    assert [Path(name).suffix for name in files(in_file)] == [".known", ".states"]
    assert sum(path.stat().st_size for path in in_file.glob("*.states")) == BYTES // 4 * first.dtype.itemsize
    second = load()
    seen = count_read(second, monkeypatch)
    context = Inputs(second, IDS, keep=True).read([0, 1, 2])
    assert not seen
    assert_read(context, first, IDS[:3])
    Inputs(second, IDS, keep=True).read([0, 3, 4])
    assert sorted(seen) == sorted(IDS[3:])
    assert len(files(in_file)) == 2


def test_other_weights_do_not_find_the_file(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    Inputs(load(), IDS, keep=True).read([0])
    other = load()
    other.model.shared.weight.data[7, 0] *= 1.0001  # less than bfloat16 can tell
    seen = count_read(other, monkeypatch)
    context = Inputs(other, IDS, keep=True).read([0])
    assert seen == [IDS[0]]
    assert_read(context, other, [IDS[0]])
    assert len(files(in_file)) == 4


def test_another_precision_does_not_find_the_file(
    in_file: Path, checkpoint_folder: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    Inputs(load(), IDS, keep=True).read([0])
    halved = load_backbone(checkpoint_folder, dtype="bfloat16", device="cpu")
    seen = count_read(halved, monkeypatch)
    context = Inputs(halved, IDS, keep=True).read([0])
    assert seen == [IDS[0]]
    assert context.states.dtype == torch.bfloat16


def test_the_longest_unused_files_make_room(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "ON_DISK", 2 * BYTES)
    several = [[*IDS[:-1], [300, number, 1]] for number in (301, 302, 303)]
    for age, ids in zip((300, 200), several[:2], strict=True):
        Inputs(load(), ids, keep=True).read([4])
        for path in in_file.iterdir():
            stamp = path.stat().st_mtime - age
            os.utime(path, (stamp, stamp))
    Inputs(load(), several[0], keep=True)  # the older of both is used again
    Inputs(load(), several[2], keep=True).read([4])
    assert len(files(in_file)) == 4
    for ids, again in zip(several, ([], [several[1][4]], []), strict=True):
        backbone = load()
        seen = count_read(backbone, monkeypatch)
        monkeypatch.setattr(contexts, "ON_DISK", 3 * BYTES)
        Inputs(backbone, ids, keep=True).read([4])
        assert seen == again


def test_the_same_inputs_under_many_weights_take_no_more_than_is_allowed(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "ON_DISK", 2 * BYTES)
    for number in range(3):
        other = load()
        other.model.shared.weight.data[7, 0] += number
        Inputs(other, IDS, keep=True)
    assert sum(path.stat().st_size for path in in_file.glob("*.states")) <= 2 * BYTES


@pytest.mark.parametrize(
    "change", [{"layer_norm_epsilon": 0.1}, {"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}], ids=str
)
def test_another_function_of_the_same_weights_does_not_find_the_file(
    change: dict[str, Any], in_file: Path, checkpoint_folder: Path, load: Callable[[], Backbone], tmp_path: Path
) -> None:
    Inputs(load(), IDS, keep=True).read([0])
    copied = tmp_path / "other"
    shutil.copytree(checkpoint_folder, copied)
    T5Config.from_pretrained(copied, **change).save_pretrained(copied)
    other = load_backbone(copied, dtype="float32", device="cpu")
    assert_read(Inputs(other, IDS, keep=True).read([0]), other, [IDS[0]])


@pytest.mark.parametrize("kept", [0, BYTES // 2], ids=["removed", "cut"])
def test_states_that_were_lost_are_encoded_again(kept: int, in_file: Path, load: Callable[[], Backbone]) -> None:
    Inputs(load(), IDS, keep=True).read([0, 4])
    (path,) = in_file.glob("*.states")
    if kept:
        os.truncate(path, kept)
    else:
        path.unlink()
    backbone = load()
    assert_read(Inputs(backbone, IDS, keep=True).read([4]), backbone, [IDS[4]])


@pytest.mark.parametrize("lost", [".known", ".states"])
def test_half_of_a_pair_of_files_is_in_nobodys_way(
    lost: str, in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "ON_DISK", BYTES)
    Inputs(load(), IDS, keep=True)
    next(in_file.glob(f"*{lost}")).unlink()
    Inputs(load(), IDS[::-1], keep=True)
    assert [path.stat().st_size for path in in_file.glob("*.states")] == [BYTES]


def test_what_is_larger_than_all_files_may_be_is_there_alone(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    Inputs(load(), IDS[::-1], keep=True)
    monkeypatch.setattr(contexts, "ON_DISK", BYTES - 1)
    fresh = load()
    assert_read(Inputs(fresh, IDS, keep=True).read([2, 1]), fresh, [IDS[2], IDS[1]])
    assert [path.stat().st_size for path in in_file.glob("*.states")] == [BYTES]


def test_a_full_disk_leaves_them_in_memory(in_file: Path, fresh: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(in_file.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=BYTES))
    assert_read(Inputs(fresh, IDS, keep=True).read([2, 1]), fresh, [IDS[2], IDS[1]])
    assert files(in_file) == []


def test_a_cache_that_cannot_be_a_folder_leaves_them_in_memory(in_file: Path, fresh: Backbone) -> None:
    in_file.write_text("a file of that name")
    assert_read(Inputs(fresh, IDS, keep=True).read([2, 1]), fresh, [IDS[2], IDS[1]])


def test_a_folder_that_takes_no_files_leaves_them_in_memory(
    in_file: Path, fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop root, who may run this."""
    in_file.mkdir()

    def refused(*_: object, **__: object) -> Tensor:
        raise RuntimeError("unable to open file </read/only> in read-write mode: Permission denied (13)")

    monkeypatch.setattr(torch, "from_file", refused)
    assert_read(Inputs(fresh, IDS, keep=True).read([2, 1]), fresh, [IDS[2], IDS[1]])


def test_the_cache_lies_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFACE_CACHE", str(tmp_path))
    assert contexts.cache_folder() == tmp_path
    monkeypatch.delenv("PREFACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert contexts.cache_folder() == tmp_path / "preface"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert contexts.cache_folder() == tmp_path / ".cache" / "preface"


def test_what_is_there_is_said_only_once_it_is_on_the_disk(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss a file may say less than it holds, never more."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("states") or fsync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append(target.suffix) or replace(self, target))
    Inputs(load(), IDS, keep=True).read([0, 1])
    assert order
    assert order == ["states", ".known"] * (len(order) // 2)

    def lost(handle: int) -> None:
        raise OSError("power")

    monkeypatch.setattr(os, "fsync", lost)
    unlucky = load()
    Inputs(unlucky, IDS, keep=True).read([2])
    monkeypatch.undo()
    monkeypatch.setattr(contexts, "BLOCK", 1)
    monkeypatch.setattr(contexts, "IN_MEMORY", 0)
    monkeypatch.setenv("PREFACE_CACHE", str(in_file.parent))
    backbone = load()
    seen = count_read(backbone, monkeypatch)
    Inputs(backbone, IDS, keep=True).read([0, 1, 2])
    assert seen == [IDS[2]]
    assert unlucky.kept  # not freed until now: then it would have tried again


def test_what_is_read_is_saved_now_and_then_and_at_the_end(
    in_file: Path, load: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "SAVE_EVERY", 2)
    backbone = load()
    inputs = Inputs(backbone, IDS, keep=True)
    inputs.read([0])
    assert not list(in_file.glob("*.known"))
    inputs.read([1])
    inputs.read([2])
    (marks,) = in_file.glob("*.known")
    assert list(marks.read_bytes()) == [1, 1, 0, 0, 0]
    backbone.kept.clear()
    del inputs
    assert list(marks.read_bytes()) == [1, 1, 1, 0, 0]


def test_a_disk_that_is_full_is_found_out_before_it_is_written_to(
    in_file: Path, fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map into a file with holes would be killed by the system instead."""

    def full(handle: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_read(Inputs(fresh, IDS, keep=True).read([2, 1]), fresh, [IDS[2], IDS[1]])
    assert files(in_file) == []
    monkeypatch.undo()


def test_files_are_whole_from_the_beginning(in_file: Path, fresh: Backbone) -> None:
    Inputs(fresh, IDS, keep=True)
    (path,) = in_file.glob("*.states")
    assert path.stat().st_blocks * 512 >= BYTES


@pytest.mark.parametrize(("tokens", "kept"), [(0, []), (1, [3]), (3, [4]), (8, [2, 3]), (99, [0, 1, 2, 3, 4])])
def test_what_does_not_fit_is_read_anew(
    tokens: int, kept: list[int], fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.keep_contexts = tokens * fresh.state_width * fresh.dtype.itemsize
    inputs = Inputs(fresh, IDS, keep=True)
    order = [2, 0, 3, 1, 4, 2]
    with monkeypatch.context() as patch:
        seen = count_read(fresh, patch)
        twice = [inputs.read(order) for _ in range(2)]
    assert [seen.count(ids) for ids in IDS] == [1 if index in kept else 2 for index in range(len(IDS))]
    for context in twice:
        assert_read(context, fresh, [IDS[index] for index in order])


def test_what_is_kept_and_what_is_read_anew_is_said(fresh: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.keep_contexts = 8 * fresh.state_width * fresh.dtype.itemsize
    Inputs(fresh, IDS, keep=True)
    assert "2 texts are kept, the others read anew each time (--keep-contexts)" in capsys.readouterr().err
    fresh.keep_contexts = 0
    assert Inputs(fresh, IDS, keep=True).kept is None
    assert "none may be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "expected"), [("4GB", 2**32), ("500 MB", 500 * 2**20), ("0", 0), ("1.5gib", 3 * 2**29)]
)
def test_sizes(size: str, expected: int) -> None:
    assert size_in_bytes(size) == expected


def test_no_size() -> None:
    with pytest.raises(UserError, match="keep-contexts much: write a size such as 4GB"):
        size_in_bytes("much")
