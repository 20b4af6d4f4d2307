"""A key-value cache whose rows come and go: a finished row leaves at once, and a new prompt takes its place.

transformers' DynamicCache copies all keys and values at every step to append one column; this one writes in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

MIN_GROWTH = 64  # columns; the buffers grow by half at least, so that copying them costs little for each token

States: TypeAlias = tuple[Float[Tensor, "rows h t d"], Float[Tensor, "rows h t w"]]  # the keys and values of a layer


class RowLayer(DynamicLayer):
    """The buffers of one layer; the cache says which of their rows and columns are in use."""

    def __init__(self, cache: RowCache, states: States) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.states = states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the next token's states, one column; return those of the window and that column."""
        rows, start, end = self.cache.num_rows, self.cache.start, self.cache.end
        keys, values = self.states
        keys[:rows, :, end : end + 1] = key_states
        values[:rows, :, end : end + 1] = value_states
        return keys[:rows, :, start : end + 1], values[:rows, :, start : end + 1]

    def get_seq_length(self) -> int:
        return self.cache.width


class RowCache(Cache):
    """Room for `max_rows` sequences, of which `num_rows` are in use; column `end` takes the next token of each.

    Rows are aligned at the right: one of n tokens holds the columns `end - n` to `end`, and what lies left of them
    is not its own (mask it). Columns are not positions, which a model takes from `position_ids`; within a row they
    are consecutive, so sliding windows, which transformers counts in columns, come out right.
    """

    def __init__(self, max_rows: int) -> None:
        super().__init__(layers=[])
        self.max_rows = max_rows
        self.num_rows = 0
        self.start = self.end = self.capacity = 0  # columns; the window in use is start to end

    @property
    def width(self) -> int:
        return self.end - self.start

    def add(self, prompts: DynamicCache, owner: Int[Tensor, " n"]) -> None:
        """Append n rows, which take row `owner[i]` of a left-padded prefill.

        That may not be wider than the window, unless the window is empty.
        """
        new = list(_states(prompts))
        width = new[0][0].shape[2]
        rows = slice(self.num_rows, self.num_rows + len(owner))
        if not self.num_rows:
            self.layers = [RowLayer(self, states) for states in new]
            self.start, self.end = 0, width
            self._make_room()
        assert width <= self.width, "longer prompts come first"
        for layer, states in zip(self._rows(), new, strict=True):
            for buffer, tensor in zip(layer.states, states, strict=True):
                buffer[rows, :, self.end - width : self.end] = tensor[owner]
        self.num_rows = rows.stop

    def advance(self) -> None:
        """After a forward pass: the column that it wrote belongs to the window."""
        self.end += 1
        if self.end == self.capacity:
            self._make_room()

    def remove(self, row: int) -> None:
        """Take `row` out; the last row takes its place."""
        self.num_rows -= 1
        if row == self.num_rows:
            return
        for layer in self._rows():
            for buffer in layer.states:
                buffer[row, :, self.start : self.end] = buffer[self.num_rows, :, self.start : self.end]

    def narrow(self, width: int) -> None:
        """Forget all columns but the last `width`, the length of the longest row."""
        self.start = self.end - width

    def _make_room(self) -> None:
        capacity = self.width + max(MIN_GROWTH, self.width // 2)
        for layer in self._rows():
            keys, values = layer.states
            layer.states = (self._moved(keys, capacity), self._moved(values, capacity))
        self.start, self.end, self.capacity = 0, self.width, capacity

    def _moved(self, buffer: Float[Tensor, "b h t d"], capacity: int) -> Float[Tensor, "rows h capacity d"]:
        _, heads, _, size = buffer.shape
        # zeros, because a masked column still counts as 0 · value, which is NaN for some uninitialised memory
        moved = buffer.new_zeros(self.max_rows, heads, capacity, size)
        if self.num_rows:
            moved[: self.num_rows, :, : self.width] = buffer[: self.num_rows, :, self.start : self.end]
        return moved

    def _rows(self) -> Iterator[RowLayer]:
        return (layer for layer in self.layers if isinstance(layer, RowLayer))


def _states(cache: DynamicCache) -> Iterator[States]:
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise ValueError(f"{type(layer).__name__} holds no keys and values; this model cannot be decoded here")
        yield layer.keys, layer.values
