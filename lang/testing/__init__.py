"""What a program's own tests need: backends that answer from a script or a recording, and one without a model."""

from branchwork.lang.testing.mock import mock_runtime
from branchwork.lang.testing.record import Recorder, Replayed
from branchwork.lang.testing.scripted import Answer, Asked, Scripted

__all__ = ["Answer", "Asked", "Recorder", "Replayed", "Scripted", "mock_runtime"]
