"""The graph of the DynEdge front where an event is small or regular."""

import torch

from export.dynedge import NEIGHBOURS, DynEdge, nearest


def test_the_nearest_are_those_of_a_loop_over_all_pairs() -> None:
    place = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, 20:] = False
    neighbour, there = nearest(place, mask)
    for event, pulses in ((0, 30), (1, 20)):
        for pulse in range(pulses):
            apart = [(float((place[event, pulse] - place[event, j]).norm()), j) for j in range(pulses) if j != pulse]
            assert neighbour[event, pulse].tolist() == [j for _, j in sorted(apart)[:NEIGHBOURS]]
            assert there[event, pulse].all()


def test_of_equally_far_pulses_the_first_are_taken() -> None:
    neighbour, there = nearest(torch.zeros(1, 12, 3), torch.ones(1, 12, dtype=torch.bool))
    assert there.all()
    assert neighbour[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert neighbour[0, 11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_small_event_has_fewer_neighbours_and_a_single_pulse_none() -> None:
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, :4], mask[1, :1] = True, True
    neighbour, there = nearest(torch.rand(2, 10, 3), mask)
    assert there[0, :4].sum(1).tolist() == [3, 3, 3, 3]
    assert not there[1, 0].any()
    assert (neighbour[0, :4] < 4).all()


def test_any_number_of_pulses_is_answered_alike_with_and_without_padding() -> None:
    torch.manual_seed(2)
    front = DynEdge(16, with_time=True).eval()
    for pulses in (1, 2, 8, 9, 10):
        columns = [torch.rand(1, 30, 3), *(torch.rand(1, 30) for _ in range(4)), torch.rand(1, 30, 2)]
        mask = torch.zeros(1, 30, dtype=torch.bool)
        mask[:, :pulses] = True
        n_pulses = torch.tensor([float(pulses)])
        with torch.inference_mode():
            padded = front(*columns, mask, n_pulses)
            alone = front(*(column[:, :pulses] for column in columns), mask[:, :pulses], n_pulses)
        assert padded.isfinite().all()
        torch.testing.assert_close(padded[:, :pulses], alone, atol=1e-5, rtol=0)
