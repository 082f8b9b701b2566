"""Vision towers that take the patches of all images in one axis, as a graph computes them.

``grid_thw`` says of each image its frames, rows and columns.  The towers of Qwen-VL, GLM-4V and
their kin read those numbers in Python, for the positions of the patches and for the pieces that
attention sees; what they compute of them may be handed to them.  Here it is computed of tensors,
and attention has one mask for all pieces, so that one file takes any images.

Source: transformers 5, ``vision_utils.py``; the names of its arguments are the towers' own.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

GRID = "grid_thw"
PATCHES = ("hidden_states", "pixel_values")  # what a tower calls the patches
_UTILITIES = "transformers.vision_utils"
_ATTENTION = "ropeexport_flash_of_pieces"  # "flash" has a tower hand over where the pieces end


@dataclass(frozen=True)
class Patches:
    """Where each patch stands, (patches,) each: its image, and its frame, row and column there.

    Patches of a frame come in blocks of ``merge`` rows and columns, which a tower merges.
    """

    grid: Tensor
    count: Any  # of patches, a size
    image: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor

    @property
    def height(self) -> Tensor:
        """Rows of each patch's image, (patches,)."""
        return self.grid[self.image, 1]

    @property
    def width(self) -> Tensor:
        """Columns of each patch's image, (patches,)."""
        return self.grid[self.image, 2]


def located(grid: Tensor, count: Any, merge: int) -> Patches:
    """Return where ``count`` patches of a grid (images, 3) stand."""
    place = torch.arange(count, device=grid.device)
    sizes = grid.prod(dim=1)
    ends = sizes.cumsum(0)
    image = _pieces_before(ends, place).clamp(max=grid.shape[0] - 1)
    height, width = grid[image, 1].clamp(min=1), grid[image, 2].clamp(min=1)
    within = place - (ends - sizes)[image]
    in_frame = within % (height * width)
    block, inner = in_frame // (merge * merge), in_frame % (merge * merge)
    blocks = (width // merge).clamp(min=1)
    row = block // blocks * merge + inner // merge
    column = block % blocks * merge + inner % merge
    return Patches(grid, count, image, within // (height * width), row, column)


def _pieces_before(ends: Tensor, place: Tensor) -> Tensor:
    """Return how many pieces end at each place or before it, (places,)."""
    return (place[:, None] >= ends[None, :]).sum(dim=1)


def ends_of_frames(patches: Patches) -> Tensor:
    """Return where the frames begin and end, (patches + 1,): the last end again for want of more.

    Pieces that hold nothing change nothing, and the number of frames is a number that only the
    values of the grid know.
    """
    frames, height, width = patches.grid.unbind(1)
    number = torch.arange(patches.count, device=patches.grid.device)
    last, size = frames.cumsum(0), height * width
    image = _pieces_before(last, number).clamp(max=patches.grid.shape[0] - 1)
    starts = (frames * size).cumsum(0) - frames * size
    ends = starts[image] + (number - (last - frames)[image] + 1) * size[image]
    return _from_zero(ends.clamp(min=0, max=patches.count))


def ends_of_images(patches: Patches) -> Tensor:
    """Return where the images begin and end, (images + 1,)."""
    return _from_zero(patches.grid.prod(dim=1).cumsum(0).clamp(min=0, max=patches.count))


def _from_zero(ends: Tensor) -> Tensor:
    return nn.functional.pad(ends, (1, 0)).to(torch.int32)


def windows(patches: Patches, merge: int, side: int) -> tuple[Tensor, Tensor]:
    """Return the merged patches by windows of ``side``, and where the windows begin and end.

    Returns
    -------
    order : Tensor
        Of the merged patches, (patches / merge^2,).
    ends : Tensor
        In patches, (patches / merge^2 + 1,), as :func:`ends_of_frames` has them.
    """
    area = merge * merge
    merged = located(_merged(patches.grid, merge), patches.count // area, 1)
    place = torch.arange(merged.count, device=merged.grid.device)
    first = place - merged.row * merged.width - merged.column  # of the frame
    above, left = merged.row // side * side, merged.column // side * side
    high = (merged.height - above).clamp(max=side)  # those at the edges are smaller
    wide = (merged.width - left).clamp(max=side)
    row, column = merged.row - above, merged.column - left
    moved = first + above * merged.width + left * high + row * wide + column
    moved = moved.clamp(min=0, max=merged.count - 1)  # of a grid that fits, they are
    order = torch.zeros_like(place).scatter(0, moved, place)
    is_first = ((row == 0) & (column == 0))[order]
    number = torch.where(is_first, is_first.to(place.dtype).cumsum(0) - 1, merged.count)
    begins = torch.where(is_first, place, merged.count)
    ends = torch.full([merged.count + 1], merged.count, device=place.device)
    return order, (ends.scatter(0, number, begins) * area).to(torch.int32)


def _merged(grid: Tensor, merge: int) -> Tensor:
    return torch.stack([grid[:, 0], grid[:, 1] // merge, grid[:, 2] // merge], dim=1)


def positions(patches: Patches, *, has_frames: bool) -> Tensor:
    """Return the row and the column of each patch, and the frame before them where it is one."""
    axes = [patches.row, patches.column]
    return torch.stack([patches.frame, *axes] if has_frames else axes, dim=1)


def by_blocks(patches: Patches) -> Tensor:
    """Return the patches, which lie row by row, in the order of the blocks."""
    size = patches.height * patches.width
    place = torch.arange(patches.count, device=patches.grid.device)
    sizes = patches.grid.prod(dim=1)
    within = place - (sizes.cumsum(0) - sizes)[patches.image]
    return place - within % size + patches.row * patches.width + patches.column


def interpolated(patches: Patches, tower: Any, side: int) -> tuple[Tensor, Tensor]:
    """Return which rows of a learned table of ``side`` each patch has, and how much of each."""
    mode = _held(tower, "interpolation_mode") or "bilinear"
    corners = _held(tower, "interpolation_align_corners") is True
    padding = _held(tower, "interpolation_padding") or "border"
    taps = sys.modules[_UTILITIES]._interpolation_axis_taps_weights
    rows, of_rows = taps(patches.row, patches.height, side, mode, corners, padding)
    columns, of_columns = taps(patches.column, patches.width, side, mode, corners, padding)
    indices = rows[:, :, None] * side + columns[:, None, :]
    return indices.flatten(1), (of_rows[:, :, None] * of_columns[:, None, :]).flatten(1)


def attention_of_pieces(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within pieces, (1, heads, length, head_dim) each, by where the pieces end."""
    length, begins = query.shape[2], cu_seq_lens_q.to(torch.int64)
    is_first = torch.zeros(length + 1, dtype=torch.int64, device=query.device)
    piece = is_first.scatter(0, begins, torch.ones_like(begins)).cumsum(0)[:length]
    mask = (piece[:, None] == piece[None, :])[None, None]
    made = nn.functional.scaled_dot_product_attention(
        query, key, value, mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return made.transpose(1, 2), None


def is_tower(module: nn.Module) -> bool:
    """Say whether a module takes patches and their grid, and what is computed of them."""
    takes = inspect.signature(module.forward).parameters
    kinds = {name: each.kind for name, each in takes.items() if each.default is each.empty}
    is_open = inspect.Parameter.VAR_KEYWORD in kinds.values()
    needs = {
        name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    # Kimi's regroups the frames of a clip, of which all images have to have as many
    is_known = not _knows(module, "get_vision_temporal_merge_index")
    needs -= {GRID}
    is_alone = len(needs) == 1 and needs <= set(PATCHES)
    return GRID in takes and is_open and is_alone and hasattr(module, "config") and is_known


def merge_of(tower: nn.Module) -> int:
    """Return how many rows and columns a block of patches has, in whose order they are given."""
    return int(_held(tower, "spatial_merge_size") or 1)


def blocks_of(tower: nn.Module) -> int:
    """Return how many rows and columns a tower merges: an image has a multiple of them."""
    return max(merge_of(tower), int(_held(tower, "merge_size") or 1))


def numbers_of_patch(tower: nn.Module) -> tuple[int, ...]:
    """Return the shape of a patch before it is flattened: what the weights that embed it take."""
    parts = [(name, x) for name, x in tower.named_modules() if isinstance(x, _EMBEDDERS)]
    named = [x for name, x in parts if "patch_emb" in name]
    return tuple([*named, *(x for _, x in parts)][0].weight.shape[1:])


def patches_name(tower: nn.Module) -> str:
    """Return what a tower calls its patches."""
    takes = inspect.signature(tower.forward).parameters
    return next(name for name in PATCHES if name in takes)


def has_batch(tower: nn.Module) -> bool:
    """Say whether a tower takes a batch of one, (1, patches, channels, rows, columns)."""
    return type(tower).__name__.startswith("PaddleOCR")


_EMBEDDERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def is_of_stills(tower: nn.Module) -> bool:
    """Say whether a tower takes frames for images of their own, as GLM-4V's does."""
    names = (inspect.signature(part.forward).parameters for part in tower.modules())
    return any("image_shapes" in each for each in names)


def _held(tower: nn.Module, name: str) -> Any:
    """Return an attribute of the first part that has it."""
    values = (getattr(part, name, None) for part in tower.modules())
    return next((value for value in values if value is not None), None)


@contextmanager
def traceable_towers(module: nn.Module) -> Iterator[None]:
    """Let the towers in a module compute of tensors, for a while, what they read in Python."""
    with ExitStack() as stack:
        for tower in _outermost(module):
            _register()
            hook = tower.register_forward_pre_hook(_prepare, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
            for config in _configs(tower, module):
                stack.callback(setattr, config, _FIELD, getattr(config, _FIELD))
                setattr(config, _FIELD, _ATTENTION)
        yield


_FIELD = "_attn_implementation_internal"


def _configs(tower: nn.Module, module: nn.Module) -> list[Any]:
    """Return the configs of a tower, each once, that no other part of the module has."""
    inner = {id(part) for part in tower.modules()}
    others = {
        id(getattr(part, "config", None)) for part in module.modules() if id(part) not in inner
    }
    found = {
        id(x): x for part in tower.modules() if hasattr(x := getattr(part, "config", None), _FIELD)
    }
    return [config for key, config in found.items() if key not in others]


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the towers that are in no other tower."""
    if _UTILITIES not in sys.modules:
        return
    inner: set[int] = set()
    for part in module.modules():
        if id(part) not in inner and is_tower(part):
            inner |= {id(each) for each in part.modules()}
            yield part


def _register() -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(_ATTENTION, attention_of_pieces)
    AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)


def _prepare(
    tower: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add to a call what is computed of its grid; the towers have the same names for it.

    Where a grid is of more patches than there are, or of fewer, patches become NaN.
    """
    arguments = inspect.signature(tower.forward).bind(*given, **named).arguments
    name = patches_name(tower)
    hidden, grid = arguments[name], arguments[GRID]
    count = hidden.shape[int(has_batch(tower))]
    fits = grid.prod(dim=1).sum() == count
    arguments[name] = torch.where(fits, hidden, math.nan)
    return (), {**arguments.pop("kwargs", {}), **arguments, **computed(tower, grid, count)}


def computed(tower: nn.Module, grid: Tensor, count: Any) -> Mapping[str, Any]:
    """Return what a tower computes of a grid (images, 3) of ``count`` patches, by its names."""
    merge = merge_of(tower)
    patches = located(grid, count, merge)
    by_image = getattr(tower, "merge_temporal", False)
    found: dict[str, Any] = {
        "cu_seqlens": (ends_of_images if by_image else ends_of_frames)(patches),
        "max_seqlen": 0,  # of kernels that are not used
        "position_ids": positions(patches, has_frames=getattr(tower, "include_temporal", False)),
    }
    window, patch = _held(tower, "window_size"), _held(tower, "patch_size")
    if window is not None and patch is not None:
        order, ends = windows(patches, merge, window // merge // patch)
        found |= {"window_index": order, "cu_window_seqlens": ends, "max_window_seqlen": 0}
    side = _held(tower, "num_grid_per_side")
    if side is not None:
        is_turned = type(tower).__name__ in _TURNED
        turned = located(grid[:, [0, 2, 1]], count, merge) if is_turned else patches
        found["interp_indices"], found["interp_weights"] = interpolated(turned, tower, side)
    if _knows(tower, "get_vision_pixel_shuffle_index"):
        found["pixel_shuffle_index"] = by_blocks(located(grid, count, _held(tower, "merge_size")))
    return found


_TURNED = {"MuseSparkVisionModel"}  # has its learned table by columns


def _knows(tower: nn.Module, function: str) -> bool:
    """Say whether the file that a tower is from has a function."""
    file = sys.modules.get(type(tower).__module__)
    return file is not None and function in vars(file)  # a module may answer to any name
