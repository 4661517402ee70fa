import numpy as np
import pytest
from tests.make_engine import done, embed, failed, key, make_runtime, opened, text

from branchwork.runtime.inbox import Append
from branchwork.runtime.wire.messages import Done


def embedding(**config: int) -> Done:
    runtime = make_runtime(**config)
    runtime.put(opened(1), text(1, "Hello the world, in Paris. " * 4), embed(1))
    return done(runtime.run(), slot="embedding")


def test_an_embedding_has_unit_length() -> None:
    final = embedding()
    assert final.reason == "embedded"
    assert np.linalg.norm(final.embedding) == pytest.approx(1.0)


def test_a_mean_is_the_same_chunked_and_whole() -> None:
    assert embedding(max_tokens_per_step=16).embedding == pytest.approx(embedding().embedding)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_embedding_is_the_same_cold_and_warm(pooling: str) -> None:
    runtime = make_runtime()
    prompt = text(1, "Hello the world, in Paris. " * 4)
    runtime.put(opened(1), prompt, embed(1, pooling=pooling))
    cold = done(runtime.run(), slot="embedding").embedding
    runtime.put(opened(2), Append(key(2), prompt.token_ids), embed(2, pooling=pooling))
    assert done(runtime.run(), 2, "embedding").embedding == pytest.approx(cold)


def test_a_text_that_cannot_fit_is_refused() -> None:
    runtime = make_runtime(max_len=16)
    runtime.put(opened(1), Append(key(1), (5,) * 20), embed(1))
    assert failed(runtime.run(), slot="embedding").code == "too_long"
