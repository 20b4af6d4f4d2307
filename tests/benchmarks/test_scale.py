"""The page on scale shows what the cost model says."""

import pytest

from benchmarks import scale


def test_the_page_shows_what_the_cost_model_says():
    (shown,) = scale.TABLE.findall(scale.PAGE.read_text())
    assert shown.endswith(scale.table()), "run `python -m benchmarks.scale`"
    assert all(assumption in shown for assumption in scale.ASSUMED)


def test_shards_leave_room_on_an_80_gb_gpu_where_whole_states_do_not():
    assert scale.gpu_bytes("dpo") < scale.gpu_bytes("ganpo_dpo") < scale.GPU_BYTES
    assert scale.GPU_BYTES < 4 * 4 * 8_030_261_248


def test_nodes_share_cells_longest_first():
    assert scale.spread([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert scale.spread([1.0] * 5, 2) == 3.0
    assert scale.spread([2.0], 10) == 2.0


def test_ganpo_takes_longer_than_its_base():
    for flops in scale.SPEEDS.values():
        assert scale.training_hours("ganpo_dpo", flops) > 1.2 * scale.training_hours("dpo", flops)
    slow, fast = (scale.training_hours("dpo", flops) for flops in scale.SPEEDS.values())
    assert slow == pytest.approx(fast * scale.SPEEDS["bfloat16"] / scale.SPEEDS["float32"], rel=0.05)
