"""The sampler's cache holds what transformers' own would hold, without copying it at every step."""

import torch
from transformers.cache_utils import DynamicLayer

from trainer.cache import RoomyLayer

LENGTH = 9


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(2, rows, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))
    return drawn[0], drawn[1]


def test_the_same_states_come_back_as_from_the_plain_cache() -> None:
    roomy, plain = RoomyLayer(LENGTH), DynamicLayer()

    def check(rows: int, tokens: int, seed: int) -> None:
        found, wanted = (layer.update(*states(rows, tokens, seed)) for layer in (roomy, plain))
        assert torch.equal(torch.stack(found), torch.stack(wanted))
        assert roomy.get_seq_length() == plain.get_seq_length()

    check(2, 4, seed=0)
    for layer in (roomy, plain):
        layer.batch_select_indices(torch.tensor([0, 0, 1]))  # a prompt that is answered twice
    check(3, 1, seed=1)
    check(3, 2, seed=2)
    for layer in (roomy, plain):
        layer.batch_select_indices(torch.tensor([0, 2]))  # an answer has ended
    check(2, 2, seed=3)


def test_a_step_writes_into_the_room_that_is_there() -> None:
    layer = RoomyLayer(LENGTH)
    layer.update(*states(2, 4, seed=0))
    places = []
    for seed in range(1, LENGTH - 3):
        keys, values = layer.update(*states(2, 1, seed))
        places.append((keys.data_ptr(), values.data_ptr()))
    assert keys.shape[2] == LENGTH
    assert len(set(places)) == 1
