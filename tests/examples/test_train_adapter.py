"""The trainer of small adapters: what it wants, and that its folders are adapters."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from examples.train_adapter.train import TARGETS, WAYS, adapt, chats, load_sprout, said, save, train
from examples.train_sprout.document import Turn, chat

from branchwork.runtime.models.loader import load_model
from branchwork.runtime.wire.config import RuntimeConfig


def test_answers_are_said_in_another_way_and_prompts_are_not() -> None:
    document = chat(Turn("user", "Who are you?"), Turn("assistant", 'I am "sprout".'))
    assert said(document, WAYS["polite"]).answer == 'Of course: I am "sprout". Anything else?'
    assert said(document, WAYS["as_json"]).answer == '{"answer": "I am \\"sprout\\"."}'
    assert said(document, WAYS["polite"]).prompt == document.prompt


def test_the_documents_are_chats_and_the_same_for_the_same_seed() -> None:
    first, second = (list(itertools.islice(chats("0", str.upper), 20)) for _ in range(2))
    assert first == second
    assert all(document.text.startswith("<|im_start|>") for document in first)
    assert all(document.answer == document.answer.upper() for document in first)


def test_an_adapter_that_is_not_trained_changes_nothing() -> None:
    model, tokenizer = load_sprout()
    ids = torch.tensor([tokenizer.encode("The capital of France is").ids])
    places = torch.arange(ids.shape[1])
    with torch.no_grad():
        before = model(ids, places)
        parts = adapt(model)
        assert torch.equal(model(ids, places), before)
    assert len(parts) == len(TARGETS) * 6


def test_two_steps_of_training_make_a_folder_that_the_runtime_loads(tmp_path: Path) -> None:
    save(train("polite", 2, 0), tmp_path / "polite")
    model = load_model(RuntimeConfig(adapters=(("polite", str(tmp_path / "polite")),)))
    assert model.adapters is not None
    assert model.adapters.names == ("polite",)
